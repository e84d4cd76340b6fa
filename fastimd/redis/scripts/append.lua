-- Append messages: give each the next ts of its group, store it, renew the expiry and publish it,
-- all in one step.
-- KEYS  the daemon's applied mark; then of each group its list and its ts floor
-- ARGV  epoch, sequence number of the first append, that of the last, expiry of the mark in seconds,
--       expiry of a list in seconds, longest list (0 = any); then of each group its channel, the
--       number of its messages, and each one's JSON up to "ts":
-- Returns the ts of the last. UNSETTLED when the mark does not say that the append before the first
-- was the last to be applied: a later connection took over, an append was refused, or the mark is
-- lost. Any other error too means that nothing was applied.
local asked = {KEYS[1]}
for key = 3, #KEYS, 2 do
  asked[#asked + 1] = KEYS[key]
end
local marks = redis.call('MGET', unpack(asked))
if marks[1] ~= ARGV[1] .. ':' .. string.format('%.0f', ARGV[2] - 1) then
  return redis.error_reply('UNSETTLED the applied mark is ' .. (marks[1] or 'not there'))
end

-- What can go wrong with one group alone, a key that is no list, does so before the first write.
local newest = {}
for key = 2, #KEYS, 2 do
  newest[key] = redis.call('LINDEX', KEYS[key], -1)
end

local clock, longest = now(), tonumber(ARGV[6])
local ts, argument, published = 0, 7, {}
for key = 2, #KEYS, 2 do
  local channel, count = ARGV[argument], ARGV[argument + 1]
  ts = math.max(clock - 1, newest[key] and ts_of(newest[key]) or 0, tonumber(marks[key / 2 + 1] or 0))
  local messages = {}
  for number = 1, count do
    ts = ts + 1
    messages[number] = ARGV[argument + 1 + number] .. string.format('%.0f', ts) .. '}'
    published[#published + 1] = {channel, messages[number]}
  end
  argument = argument + 2 + count
  local length = redis.call('RPUSH', KEYS[key], unpack(messages))
  if longest > 0 and length > longest then
    redis.call('LTRIM', KEYS[key], -longest, -1)
  end
  redis.call('EXPIRE', KEYS[key], ARGV[5])
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[3], 'EX', ARGV[4])
for _, message in ipairs(published) do
  redis.call('PUBLISH', message[1], message[2])
end
return ts
