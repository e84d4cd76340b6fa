-- Delete all messages of a group.
-- KEYS  the list, the group's ts floor, its life, its deletions
-- ARGV  the latest ts that the daemon believes, channel of events, the event up to its `until`,
--       seconds that it is remembered
-- Returns how many there were.
local tail = redis.call('LINDEX', KEYS[1], -1)
if not tail then
  return 0
end
-- The next message must not get a ts that was given, even if the list ran ahead of the clock.
local clock = now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[1])
local newest = newest_ts(KEYS[1], tail, limit)
raise_floor(KEYS[2], newest, clock)
local total = redis.call('LLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
local stamp = math.max(clock, newest)
local event = ARGV[3] .. as_text(stamp) .. '}'
remember(KEYS[4], KEYS[3], event, stamp, ARGV[4], 'plt')
redis.call(PUBLISH, ARGV[2], event)
return total
