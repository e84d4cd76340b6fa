-- What is remembered of messages that were deleted, for clients that are away.

-- How many deletions of a group are remembered.
local REMEMBERED = 1000

-- Remember a deletion. `event` tells it, `stamp` is no less than the ts of any message before it.
local function remember(key, event, stamp, seconds)
  redis.call('ZADD', key, as_text(stamp), event)
  redis.call('ZREMRANGEBYRANK', key, 0, -REMEMBERED - 1)
  redis.call('EXPIRE', key, seconds)
end

-- Whether deletions tell why the message at `ts` is not there.
local function tell_of(gone, ts)
  for _, event in ipairs(gone) do
    if string.find(event, '"until":', 1, true) or tonumber(string.match(event, '"ts":(%d+)')) == ts then
      return true
    end
  end
  return false
end

-- The deletions since `ts`, as events.
local function removals(key, ts)
  return redis.call('ZRANGEBYSCORE', key, as_text(ts), '+inf')
end

