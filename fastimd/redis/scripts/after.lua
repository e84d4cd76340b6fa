-- A page of the messages after a moment, oldest first.
-- KEYS  the list
-- ARGV  the ts, the longest page
local start = lower_bound(KEYS[1], tonumber(ARGV[1]) + 1)
return redis.call('LRANGE', KEYS[1], start, start + ARGV[2] - 1)
