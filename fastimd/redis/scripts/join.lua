-- Put a group into a user's set of groups.
-- KEYS  the set
-- ARGV  the group, the group as the Java server writes it, channel of events, the event, the most
--       groups that the set may have by this, 0 for no limit
-- Returns 1; 0 when the user was in it already; -1 when the set has as many as it may.
local most = tonumber(ARGV[5])
local found = redis.call('SMISMEMBER', KEYS[1], ARGV[1], ARGV[2])
if found[1] == 1 or found[2] == 1 then
  return 0
end
if most > 0 and redis.call('SCARD', KEYS[1]) >= most then
  return -1
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
