-- Take a group out of a user's set of groups, and forget the read mark there.
-- KEYS  the set, the user's read marks
-- ARGV  the group, the group as the Java server writes it, channel of events, the event
-- Returns 1; 0 when the user was not in it.
if redis.call('SREM', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.pcall('ZREM', KEYS[2], ARGV[1])  -- of another type, it has no marks
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
