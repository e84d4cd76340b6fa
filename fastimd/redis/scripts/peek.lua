-- What a group list shows of a group, of one moment.
-- KEYS  the list, the group's ts floor
-- ARGV  the latest ts that the daemon believes
-- Returns its length, its newest entry, milliseconds to its expiry, and its newest ts that can be
-- believed, or 0.
local tail = redis.call('LINDEX', KEYS[1], -1)
local limit = latest(now(), floor_of(KEYS[2]), ARGV[1])
return {
  redis.call('LLEN', KEYS[1]), tail, redis.call('PTTL', KEYS[1]), newest_ts(KEYS[1], tail, limit)
}
