-- Announce a kick, and remember it for daemons that do not hear of it now.
-- KEYS  the kicks that are remembered, by their moment
-- ARGV  channel of events, the event, milliseconds for which it is remembered
-- Returns how many daemons heard of it. An error means that it is not remembered; it was announced.
local heard = redis.call('PUBLISH', ARGV[1], ARGV[2])
local clock = now()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. as_text(clock - ARGV[3]))
redis.call('ZADD', KEYS[1], as_text(clock), ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return heard
