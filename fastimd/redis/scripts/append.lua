-- Append messages: give each the next ts of its group, store it, renew the expiry and publish it,
-- all in one step. One whose nonce was seen a while ago is there already, and keeps its ts.
-- KEYS  the daemon's applied mark; then of each group its list, its ts floor and its life; then of
--       each message that has a nonce the nonces of its user in the group
-- ARGV  epoch, sequence number of the first append, that of the last, expiry of the mark in seconds,
--       expiry of a list in seconds, longest list (0 = any), the latest time that the daemon knows
--       Redis to have shown; then of each group its channel, the newest ts that the daemon knows,
--       the number of its messages, and each one's JSON up to "ts":; then, if the ts of each is asked
--       for, of each message that has a nonce its number, the nonce and how many its key remembers,
--       and how many messages have one
-- Returns the ts of the last, or, if that of each is asked for, a list that begins with the list of
-- them. Where a channel may not be published in, or a nonce not be remembered, it is a list that ends
-- with the channel or the key, and the error: the messages are stored all the same.
-- UNSETTLED when the mark does not say that the append before the first was the last to be applied:
-- a later connection took over, an append was refused, or the mark is lost. Any other error too
-- means that nothing was applied; NONCE is one of a user's nonces.

-- How long a nonce is remembered, in milliseconds.
local REMEMBERED = 300000

-- What ends the arguments of a message is no number.
local nonces = tonumber(ARGV[#ARGV])
local last = #KEYS - (nonces or 0)
local asked = {KEYS[1]}
for key = 3, last, 3 do
  asked[#asked + 1] = KEYS[key]
  asked[#asked + 1] = KEYS[key + 1]
end
local marks = redis.call('MGET', unpack(asked))
if marks[1] ~= ARGV[1] .. ':' .. as_text(ARGV[2] - 1) then
  return redis.error_reply('UNSETTLED the applied mark is ' .. (marks[1] or 'not there'))
end

-- What can go wrong with one group or user alone, a key of another type, does so before the first
-- write.
local tails = {}
for key = 2, last, 3 do
  tails[key] = redis.call('LINDEX', KEYS[key], -1)
end
local clock = now()
-- By the number of a message that has a nonce: the key, the nonce, and the ts if it is known. Two
-- messages with one nonce share them, so that the second is told the ts of the first.
local named = nonces and {}
if nonces then
  local known = {}
  for index = 1, nonces do
    local argument = #ARGV + 3 * (index - nonces - 1)
    local key, nonce = KEYS[last + index], ARGV[argument + 1]
    known[key] = known[key] or {}
    if not known[key][nonce] then
      local score = redis.pcall('ZSCORE', key, nonce)
      if type(score) == 'table' then
        return redis.error_reply('NONCE ' .. score.err)
      end
      local ts = whole(tonumber(score))
      if ts and ts < clock - REMEMBERED then
        ts = nil
      end
      known[key][nonce] = {key = key, nonce = nonce, ts = ts, most = ARGV[argument + 2]}
    end
    named[tonumber(ARGV[argument])] = known[key][nonce]
  end
end

local longest = tonumber(ARGV[6])
local shown = math.max(clock, ARGV[7])
local ts, argument, published = 0, 8, {}
local given, fresh, mark = nonces and {}, nonces and {}, 2
for key = 2, last, 3 do
  local channel, heard, count = ARGV[argument], tonumber(ARGV[argument + 1]), ARGV[argument + 2]
  local floor, life = marks[mark], marks[mark + 1]
  mark = mark + 2
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
  local messages, stored = {}, 0
  for number = 1, count do
    local name = nonces and named[#given + 1]
    if not name or not name.ts then
      ts, stored = ts + 1, stored + 1
      local message = ARGV[argument + 2 + number] .. string.format('%.0f}', ts)
      messages[stored] = message
      published[#published + 1] = channel
      published[#published + 1] = message
      if name then
        name.ts = ts
        fresh[#fresh + 1] = name
      end
    end
    if nonces then
      given[#given + 1] = name and name.ts or ts
    end
  end
  argument = argument + 3 + count
  if stored > 0 then
    local length = redis.call('RPUSH', KEYS[key], unpack(messages))
    local is_trimmed = longest > 0 and length > longest
    if is_trimmed then
      redis.call('LTRIM', KEYS[key], -longest, -1)
    end
    local is_begun = length == stored
    if life and (is_begun or is_trimmed or string.sub(life, 1, 1) == 'p') then
      note_append(KEYS[key + 2], life, is_begun and ts, is_trimmed)
    end
    redis.call('EXPIRE', KEYS[key], ARGV[5])
    if ts > clock + NEAR then
      redis.call('SET', KEYS[key + 1], as_text(ts), 'PX', as_text(ts - clock + 1000))
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[3], 'EX', ARGV[4])
-- What is stored is remembered and published as far as that is allowed: nothing may fail between
-- two groups.
local refused
for _, name in ipairs(fresh or {}) do
  for _, command in ipairs({
    {'ZREMRANGEBYSCORE', name.key, '-inf', '(' .. as_text(clock - REMEMBERED)},
    {'ZREMRANGEBYRANK', name.key, 0, -name.most},
    {'ZADD', name.key, as_text(name.ts), name.nonce},
    {'PEXPIRE', name.key, REMEMBERED},
  }) do
    local answer = redis.pcall(unpack(command))
    if type(answer) == 'table' then
      refused = {name.key, command[1] .. ': ' .. answer.err}
    end
  end
end
for index = 1, #published, 2 do
  local answer = redis.pcall(PUBLISH, published[index], published[index + 1])
  if type(answer) == 'table' and answer.err then
    refused = {published[index], answer.err}
  end
end
if nonces or refused then
  return {given or ts, unpack(refused or {})}
end
return ts
