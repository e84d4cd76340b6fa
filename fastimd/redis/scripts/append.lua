-- Append messages: give each the next ts of its group, store it, renew the expiry and publish it,
-- all in one step.
-- KEYS  the daemon's applied mark; then of each group its list and its ts floor
-- ARGV  epoch, sequence number of the first append, that of the last, expiry of the mark in seconds,
--       expiry of a list in seconds, longest list (0 = any), the latest time that the daemon knows
--       Redis to have shown; then of each group its channel, the newest ts that the daemon knows,
--       the number of its messages, and each one's JSON up to "ts":
-- Returns the ts of the last; and where a channel may not be published in, it and the error after
-- it, for the messages are stored all the same. UNSETTLED when the mark does not say that the append before the first
-- was the last to be applied: a later connection took over, an append was refused, or the mark is
-- lost. Any other error too means that nothing was applied.
local asked = {KEYS[1]}
for key = 3, #KEYS, 2 do
  asked[#asked + 1] = KEYS[key]
end
local marks = redis.call('MGET', unpack(asked))
if marks[1] ~= ARGV[1] .. ':' .. as_text(ARGV[2] - 1) then
  return redis.error_reply('UNSETTLED the applied mark is ' .. (marks[1] or 'not there'))
end

-- What can go wrong with one group alone, a key that is no list, does so before the first write.
local tails = {}
for key = 2, #KEYS, 2 do
  tails[key] = redis.call('LINDEX', KEYS[key], -1)
end

local clock, longest = now(), tonumber(ARGV[6])
local shown = math.max(clock, ARGV[7])
local ts, argument, published = 0, 8, {}
for key = 2, #KEYS, 2 do
  local channel, heard, count = ARGV[argument], tonumber(ARGV[argument + 1]), ARGV[argument + 2]
  local floor = marks[key / 2 + 1]
  floor = floor and whole(tonumber(floor)) or 0
  local newest = tails[key] and ts_of(tails[key])
  if not tails[key] then
    -- A list that has just gone may have had these: what is ahead of them has raised the floor.
    newest = clock + NEAR
    if floor == 0 and heard > newest then
      newest = heard + LEAP
    end
  elseif not newest or newest > shown + AHEAD then
    local limit = latest(clock, floor, math.max(shown + AHEAD, heard + STEP))
    newest = newest_ts(KEYS[key], tails[key], limit)
  end
  ts = math.max(shown - 1, newest, floor, heard)
  local messages = {}
  for number = 1, count do
    ts = ts + 1
    local message = ARGV[argument + 2 + number] .. string.format('%.0f}', ts)
    messages[number] = message
    published[#published + 1] = channel
    published[#published + 1] = message
  end
  argument = argument + 3 + count
  local length = redis.call('RPUSH', KEYS[key], unpack(messages))
  if longest > 0 and length > longest then
    redis.call('LTRIM', KEYS[key], -longest, -1)
  end
  redis.call('EXPIRE', KEYS[key], ARGV[5])
  if ts > clock + NEAR then
    redis.call('SET', KEYS[key + 1], as_text(ts), 'PX', as_text(ts - clock + 1000))
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[3], 'EX', ARGV[4])
-- What is stored is published as far as that is allowed: nothing may fail between two groups.
local refused
for index = 1, #published, 2 do
  local answer = redis.pcall('PUBLISH', published[index], published[index + 1])
  if type(answer) == 'table' and answer.err then
    refused = {ts, published[index], answer.err}
  end
end
return refused or ts
