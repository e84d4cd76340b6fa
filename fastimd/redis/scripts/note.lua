-- Note from where on the messages of a group are to be told, before the first of them is stored.
-- KEYS  the list, the group's ts floor, what was told of it
-- ARGV  the latest ts that the daemon believes, the ts up to which it knows that they were told or "",
--       milliseconds for which this is kept
-- Returns the ts up to which they were told.
local told = redis.call('HGET', KEYS[3], 'ts')
if not told then
  told = begin_telling(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return told
