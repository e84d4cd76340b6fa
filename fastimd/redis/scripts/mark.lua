-- Move a user's read mark in a group; it never goes back.
-- KEYS  the user's set of groups, which says where the other lies; the user's marks
-- ARGV  the group, the ts up to which it was read, seconds that marks are kept, the most marks: of
--       more the oldest go
-- Returns 1 when the group had no mark before, else 0.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then
  redis.call('UNLINK', KEYS[2])  -- it is ours alone, and of no use
end
local is_new = redis.call('ZADD', KEYS[2], 'GT', ARGV[2], ARGV[1])
if is_new == 1 then
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[4])
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return is_new
