-- Change what a group's moderators have decided, and tell every daemon.
-- KEYS  the list, beside which the rest lies; the policy; those of its fields that end, by their end
-- ARGV  channel of events; the event up to the end of the act; the most fields; then of each change
--       the field; the seconds for which it holds, 0 for no end, or "" for what is no act of that
--       kind; and the value, which for an act lacks its beginning, or "" to drop the field
-- Returns how many fields are different now; -1 when there are too many, and nothing was changed.
--
-- The version is raised by each change and 0 without a policy, so that who misses one knows it. What
-- has ended is dropped here. The keys expire with the last act, if each has an end.

-- How much longer than its acts a policy is kept, in milliseconds: no daemon's clock is so far off.
local KEPT = 60000
-- How many fields that have ended are dropped at once.
local DROPPED = 100

local clock = now()
local was = whole(tonumber(redis.call('HGET', KEYS[2], 'v') or '')) or 0
local changes, added = {}, 0

-- How many there are but for the version.
local function fields_of()
  return redis.call('HLEN', KEYS[2]) - (was > 0 and 1 or 0)
end

local function drop(field)
  redis.call('ZREM', KEYS[3], field)
  if redis.call('HDEL', KEYS[2], field) == 1 then
    changes[#changes + 1] = {field, ''}
  end
end

for index = 4, #ARGV, 3 do
  if ARGV[index + 2] ~= '' and redis.call('HEXISTS', KEYS[2], ARGV[index]) == 0 then
    added = added + 1
  end
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', as_text(clock), 'LIMIT', 0, DROPPED)
if added > 0 and fields_of() - #ended + added > tonumber(ARGV[3]) then
  return -1
end
for _, field in ipairs(ended) do
  drop(field)
end
local dropped, ends = #changes, 0
for index = 4, #ARGV, 3 do
  local field, seconds, value = ARGV[index], tonumber(ARGV[index + 1]), ARGV[index + 2]
  if value == '' then
    drop(field)
  else
    if seconds then
      ends = seconds > 0 and clock + seconds * 1000 or 0
      value = '{"until":' .. as_text(ends) .. ',' .. value
      if ends > 0 then
        redis.call('ZADD', KEYS[3], as_text(ends), field)
      else
        redis.call('ZREM', KEYS[3], field)
      end
    end
    if redis.call('HGET', KEYS[2], field) ~= value then
      redis.call('HSET', KEYS[2], field, value)
      changes[#changes + 1] = {field, value}
    end
  end
end
if #changes == 0 then
  return 0
end

local fields, version = fields_of(), 0
if fields == 0 then
  redis.call('UNLINK', KEYS[2], KEYS[3])
else
  version = math.max(clock, was + 1)
  redis.call('HSET', KEYS[2], 'v', as_text(version))
  local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  if fields > redis.call('ZCARD', KEYS[3]) then
    redis.call('PERSIST', KEYS[2])
    redis.call('PERSIST', KEYS[3])
  else
    redis.call('PEXPIREAT', KEYS[2], as_text(last + KEPT))
    redis.call('PEXPIREAT', KEYS[3], as_text(last + KEPT))
  end
end
redis.call(PUBLISH, ARGV[1], ARGV[2] .. string.format(
  ',"until":%.0f,"was":%.0f,"version":%.0f,"changes":%s}', ends, was, version, cjson.encode(changes)
))
return #changes - dropped
