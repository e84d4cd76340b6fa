-- What is remembered of messages that were deleted, for clients that are away. All of it may be lost,
-- as every key of ours: a group's life says what should be there.

-- How many deletions of a group are remembered.
local REMEMBERED = 1000

-- The stamp of the newest deletion that is remembered, or 0.
local function newest_removal(key)
  return whole(tonumber(redis.pcall('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])) or 0
end

-- Remember a deletion. `event` tells it, `stamp` is no less than the ts of any message before it;
-- `emptied` is as for note_deletion.
local function remember(key, life, event, stamp, seconds, emptied)
  -- The newest message may have been deleted, and be ahead of the clock.
  local before = newest_removal(key)
  stamp = math.max(stamp, before)
  if type(redis.pcall('ZADD', key, as_text(stamp), event)) == 'number' then
    redis.call('ZREMRANGEBYRANK', key, 0, -REMEMBERED - 1)
    redis.call('EXPIRE', key, seconds)
  else
    redis.pcall('UNLINK', key)  -- it was of another type
    stamp = nil
  end
  note_deletion(life, before, stamp, emptied)
end

-- Whether deletions tell why the message at `ts` is not there. One that deleted the messages of a user
-- names each of them.
local function tell_of(gone, ts)
  local digits = as_text(ts)
  for _, event in ipairs(gone) do
    local list = string.match(event, '"gone":%[([%d,]*)%],"since":%d+,"until":%d+}$')
    if list then
      if string.find(',' .. list .. ',', ',' .. digits .. ',', 1, true) then
        return true
      end
      event = ''
    end
    local stamp = tonumber(string.match(event, '"until":(%d+)}$'))
    if stamp and stamp >= ts or tonumber(string.match(event, '"ts":(%d+)}$')) == ts then
      return true
    end
  end
  return false
end

-- The deletions since `ts`, as events.
local function removals(key, ts)
  local found = redis.pcall('ZRANGEBYSCORE', key, as_text(ts), '+inf')
  return found.err and {} or found
end

