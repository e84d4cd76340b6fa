-- The length of a list and its last entries, of one moment.
-- KEYS  the list
-- ARGV  how many
local count = tonumber(ARGV[1])
local entries = count > 0 and redis.call('LRANGE', KEYS[1], -count, -1) or {}
return {redis.call('LLEN', KEYS[1]), entries}
