-- Tell something to the other daemons that have members in a group.
-- KEYS  the list, beside which the rest lies; the index of the group
-- ARGV  the daemon's own id, what is told
-- Returns nothing, or a channel and why it may not be published in.
local clock = now()
for id, daemon in pairs((read_index(KEYS[2]))) do
  if id ~= ARGV[1] and daemon.lease >= clock then
    local answer = redis.pcall('PUBLISH', 'fastimd:to:' .. id, ARGV[2])
    if type(answer) == 'table' then
      return {'fastimd:to:' .. id, answer.err}
    end
  end
end
return false
