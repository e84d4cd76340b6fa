-- Delete all messages of a group.
-- KEYS  the list, the group's ts floor
-- ARGV  the latest ts that the daemon believes, channel of events, the event
-- Returns how many there were.
local tail = redis.call('LINDEX', KEYS[1], -1)
if not tail then
  return 0
end
-- The next message must not get a ts that was given, even if the list ran ahead of the clock.
local clock = now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[1])
raise_floor(KEYS[2], newest_ts(KEYS[1], tail, limit), clock)
local total = redis.call('LLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return total
