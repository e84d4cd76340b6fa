-- Append a message to its group's list, with a ts that is the clock of Redis but always increases,
-- and publish it. All peers that keep their messages themselves use it.
-- KEYS  the list, the group's newest ts
-- ARGV  the message's JSON up to "ts":, seconds until the list expires, the channel ("" = none)
-- Returns the ts, as digits.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ts = math.max(now, tonumber(redis.call('GET', KEYS[2]) or 0) + 1)
local digits = string.format('%.0f', ts)
local message = ARGV[1] .. digits .. '}'
redis.call('RPUSH', KEYS[1], message)
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], digits, 'EX', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], message)
end
return digits
