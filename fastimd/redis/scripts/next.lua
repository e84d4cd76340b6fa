-- The page after a message that was read, though the list may have lost older ones meanwhile.
-- KEYS  the list
-- ARGV  index of that message's entry when it was read, the entry, its ts, how many
-- Returns the index of that entry now, and the page.
local index = tonumber(ARGV[1])
if redis.call('LINDEX', KEYS[1], index) ~= ARGV[2] then
  local ts = tonumber(ARGV[3])
  index = index_of(KEYS[1], ARGV[2]) or lower_bound(KEYS[1], ts, math.max(now() + AHEAD, ts)) - 1
end
return {index, redis.call('LRANGE', KEYS[1], index + 1, index + ARGV[4])}
