-- The page after a message that was read, though the list may have lost older ones meanwhile.
-- KEYS  the list
-- ARGV  index of that message's entry when it was read, the entry, its ts, how many
-- Returns the index of that entry now, and the page.
local index = tonumber(ARGV[1])
if redis.call('LINDEX', KEYS[1], index) ~= ARGV[2] then
  local at = lower_bound(KEYS[1], tonumber(ARGV[3]))
  index = at - 1
  for offset, entry in ipairs(redis.call('LRANGE', KEYS[1], at, at + 64)) do
    if entry == ARGV[2] then
      index = at + offset - 1
      break
    end
  end
end
return {index, redis.call('LRANGE', KEYS[1], index + 1, index + ARGV[4])}
