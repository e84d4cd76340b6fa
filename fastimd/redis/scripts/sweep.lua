-- The groups of one part that may have something to tell, for one daemon at a time.
-- KEYS  the groups, by when they were last noted; "" by when they were last looked through
-- ARGV  milliseconds in which no other daemon looks through them, the most groups, a number by which
--       to choose where to begin when there are more
-- Returns the time, milliseconds since the epoch, and the groups, each followed by when it was noted;
-- nothing when another daemon does.
local clock, swept = now(), redis.call('ZSCORE', KEYS[1], '')
if not swept and redis.call('EXISTS', KEYS[1]) == 0 then
  return {}
end
if swept and clock - tonumber(swept) < tonumber(ARGV[1]) and tonumber(swept) <= clock then
  return {}
end
redis.call('ZADD', KEYS[1], as_text(clock), '')
local count, most = redis.call('ZCARD', KEYS[1]), tonumber(ARGV[2])
local start = count > most and ARGV[3] % (count - most + 1) or 0
local found = {as_text(clock)}
local flat = redis.call('ZRANGE', KEYS[1], start, start + most - 1, 'WITHSCORES')
for index = 1, #flat, 2 do
  if flat[index] ~= '' then
    found[#found + 1], found[#found + 2] = flat[index], flat[index + 1]
  end
end
return found
