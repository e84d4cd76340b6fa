-- A range of a list by index, as LRANGE takes it: both inclusive, negatives from the end.
-- KEYS  the list
-- ARGV  first, last, the most messages to return at once
-- Returns the true first and last index (last < first: nothing) and the first page.
local length = redis.call('LLEN', KEYS[1])
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
first = math.max(0, first < 0 and first + length or first)
last = math.min(length - 1, last < 0 and last + length or last)
return page(KEYS[1], first, last, tonumber(ARGV[3]))
