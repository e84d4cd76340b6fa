-- Who is in a group: the index says which daemons have members there, each with its lease.

-- The index: the daemons by their ids, which are hexadecimal, when it was begun, and its version, or
-- nil when there is none. `noted` is the version after a daemon's last change. What others have written there is passed over.
local function read_index(key)
  local daemons, head = {}, {}
  local found = redis.call('HGETALL', key)
  for at = 1, #found, 2 do
    local lease, clients, users, wants, noted =
      string.match(found[at + 1], '^(%d+) (%d+) (%d+) (%d) (%d+)$')
    if lease and string.match(found[at], '^%x+$') then
      daemons[found[at]] = {
        lease = tonumber(lease), clients = tonumber(clients), users = tonumber(users),
        wants = wants == '1', noted = tonumber(noted),
      }
    else
      head[found[at]] = tonumber(found[at + 1])
    end
  end
  return daemons, head.born, head.version
end
