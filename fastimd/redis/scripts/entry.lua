-- Put before every script: reading list entries in the plain and the wrapped form.

-- A message as a table, or nil when the entry is not a message.
local function decode(entry)
  local ok, message = pcall(cjson.decode, entry)
  if ok and type(message) == 'string' then
    ok, message = pcall(cjson.decode, message)
  end
  if ok and type(message) == 'table' then
    return message
  end
end

-- The ts of an entry in milliseconds; 0 when the entry is not a message.
-- Our own entries end with it, so that the tail of the string is enough.
local function ts_of(entry)
  local digits = string.match(string.sub(entry, -24), '"ts":(%d+)}$')
  if digits then
    return tonumber(digits)
  end
  local message = decode(entry)
  return message and tonumber(message.ts) or 0
end

-- The index of the first entry whose ts is at least `ts` (the length when there is none).
local function lower_bound(key, ts)
  local low, high = 0, redis.call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if ts_of(redis.call('LINDEX', key, middle)) < ts then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The index and the text of the message of `user` at `ts`, or nil.
-- Several Java servers may have stored entries slightly out of order: look around the place, too.
local function find(key, at, user, ts)
  local first = math.max(0, at - 64)
  local around = redis.call('LRANGE', key, first, at + 64)
  for offset, entry in ipairs(around) do
    if ts_of(entry) == ts then
      local message = decode(entry)
      if message and tostring(message.userId) == user then
        return first + offset - 1, entry
      end
    end
  end
end

-- The clock of Redis, milliseconds since the epoch.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Indices of a range and its first page.
local function page(key, first, last, longest)
  local entries = first <= last
    and redis.call('LRANGE', key, first, math.min(last, first + longest - 1)) or {}
  return {first, last, entries}
end

