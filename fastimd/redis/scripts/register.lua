-- Note that groups may have something to tell, for the daemons that look for what killed ones left.
-- KEYS  the groups of one part, by when they were last noted
-- ARGV  milliseconds for which they are kept, the groups
-- Returns how many are new.
local clock, new = as_text(now()), 0
for index = 2, #ARGV do
  new = new + redis.call('ZADD', KEYS[1], clock, ARGV[index])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return new
