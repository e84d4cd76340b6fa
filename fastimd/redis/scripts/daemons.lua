-- Note that daemons live, and tell which there are.
-- KEYS  the daemons, by when they were last noted
-- ARGV  milliseconds for which one is remembered, the ids of those that live
-- Returns the ids of all, each followed by when it was noted, milliseconds since the epoch.
local clock = now()
for at = 2, #ARGV do
  redis.call('ZADD', KEYS[1], as_text(clock), ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', as_text(clock - ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
