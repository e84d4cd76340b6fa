-- Put a group into a user's set of groups.
-- KEYS  the set
-- ARGV  the group, the group as the Java server writes it, channel of events, the event
-- Returns 1, or 0 when the user was in it already.
if redis.call('SISMEMBER', KEYS[1], ARGV[2]) == 1 or redis.call('SADD', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
