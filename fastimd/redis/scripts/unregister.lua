-- Note that a group has nothing to tell, unless it was noted again meanwhile.
-- KEYS  the groups of one part, by when they were last noted
-- ARGV  the group, when it was last noted, milliseconds since the epoch
-- Returns 1 when it is gone, else 0.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
