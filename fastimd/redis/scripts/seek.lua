-- Look for a message entry by entry, from the newest on: its ts may be out of order.
-- KEYS  the list
-- ARGV  the message's user or "", its ts, the index before which to look ("" = the end), how many
-- Returns the index before which to look on, 0 when that was all; and the entry, or nothing.
local ts, stop = tonumber(ARGV[2]), tonumber(ARGV[3]) or redis.call('LLEN', KEYS[1])
local first = math.max(0, stop - ARGV[4])
local entries = stop > first and redis.call('LRANGE', KEYS[1], first, stop - 1) or {}
for index = #entries, 1, -1 do
  if is_of(entries[index], ARGV[1], ts, ARGV[2]) then
    return {first, entries[index]}
  end
end
return {first, false}
