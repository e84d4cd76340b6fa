-- Delete all messages of a group.
-- KEYS  the list, the group's ts floor
-- ARGV  channel of events, the event
-- Returns how many there were.
local newest = redis.call('LINDEX', KEYS[1], -1)
if not newest then
  return 0
end
-- The next message must not get a ts that was given, even if the list ran ahead of the clock.
local floor = math.max(ts_of(newest), tonumber(redis.call('GET', KEYS[2]) or 0))
redis.call('SET', KEYS[2], string.format('%.0f', floor), 'PX', math.max(0, floor - now()) + 1000)
local total = redis.call('LLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return total
