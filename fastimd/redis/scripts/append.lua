-- Append one message: give it the next ts, store it, renew the expiry and publish it, in one step.
-- KEYS  the list, the daemon's applied mark, the group's ts floor
-- ARGV  channel, JSON up to "ts":, expiry in seconds, longest list (0 = any), epoch, sequence,
--       expiry of the mark in seconds
-- Returns the ts. UNSETTLED when the mark does not say that the append before this one was the last
-- to be applied: a later connection took over, an append was refused, or the mark is lost.
local marks = redis.call('MGET', KEYS[2], KEYS[3])
if marks[1] ~= ARGV[5] .. ':' .. string.format('%.0f', ARGV[6] - 1) then
  return redis.error_reply('UNSETTLED the applied mark is ' .. (marks[1] or 'not there'))
end

local newest = redis.call('LINDEX', KEYS[1], -1)
local ts = math.max(now(), (newest and ts_of(newest) or 0) + 1, (tonumber(marks[2] or 0)) + 1)
local digits = string.format('%.0f', ts)
local message = ARGV[2] .. digits .. '}'

local length = redis.call('RPUSH', KEYS[1], message)
local longest = tonumber(ARGV[4])
if longest > 0 and length > longest then
  redis.call('LTRIM', KEYS[1], -longest, -1)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[5] .. ':' .. ARGV[6], 'EX', ARGV[7])
redis.call('PUBLISH', ARGV[1], message)
return ts
