-- Finding a message in a list.

-- The index after the last entry whose ts is less than `ts`. Entries are passed over that are no
-- messages, or whose ts is after `limit`. `from` is an index that it is not before, if one is known.
local function lower_bound(key, ts, limit, from)
  local low, high = from or 0, redis.call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    -- The first alone, for it is nearly always good.
    local probe, found = middle, ts_of(redis.call('LINDEX', key, middle))
    if not found or found > limit then
      found, probe = nil, middle + 1
    end
    while not found and probe < high and probe < middle + 4 * LOOK do
      for _, entry in ipairs(redis.call('LRANGE', key, probe, math.min(high, probe + LOOK) - 1)) do
        found = ts_of(entry)
        if found and found <= limit then
          break
        end
        found, probe = nil, probe + 1
      end
    end
    if found and found < ts then
      low = probe + 1
    else
      high = middle
    end
  end
  return low
end

-- Whether an entry is the message of `user`, or with nil or "" of anybody, at `ts`; `digits` are the
-- ts as text.
local function is_of(entry, user, ts, digits)
  if not string.find(entry, digits, 1, true) or ts_of(entry) ~= ts then
    return false
  end
  local message = decode(entry)
  return message and (not user or user == '' or tostring(message.userId) == user)
end

-- The index and the text of the message of `user`, or with nil of anybody, at `ts`; or nil.
-- Several Java servers may have stored entries slightly out of order: look around the place, too.
local function find(key, at, user, ts)
  local first = math.max(0, at - LOOK)
  local digits = as_text(ts)
  for offset, entry in ipairs(redis.call('LRANGE', key, first, at + LOOK)) do
    if is_of(entry, user, ts, digits) then
      return first + offset - 1, entry
    end
  end
end

-- The index of an entry, or nil. The last one: the list grows there.
local function index_of(key, entry)
  return redis.call('LPOS', key, entry, 'RANK', -1) or nil
end

