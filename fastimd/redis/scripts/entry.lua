-- Put before every script: reading list entries in the plain and the wrapped form.

-- Above it a number of Lua, as one of JavaScript, is no longer exact.
local MAX_TS = 9007199254740991
-- Milliseconds by which a ts may be ahead of Redis's clock, and of the newest that is known.
local AHEAD, STEP = 60000, 2000
-- How far beyond the newest known ts a group goes on when Redis has lost it: a moment ago others may
-- have heard later ones.
local LEAP = 1000
-- Entries that are looked at for one whose ts can be believed.
local LOOK = 64

-- A number that can be a ts, or nil.
local function whole(number)
  if number and number >= 0 and number <= MAX_TS and math.floor(number) == number then
    return number
  end
end

local function as_text(number)
  return string.format('%.0f', number)
end

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

-- The ts of an entry in milliseconds, or nil when the entry is not a message.
-- Our own entries end with it, so that the tail of the string is enough.
local function ts_of(entry)
  local digits = string.match(string.sub(entry, -24), '"ts":(%d+)}$')
  if digits then
    return whole(tonumber(digits))
  end
  local message = decode(entry)
  if message and type(message.ts) == 'number' then
    return whole(message.ts)
  end
end

-- The clock of Redis, milliseconds since the epoch.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A group's ts floor: no message may get a ts up to it. MGET, for the key may be of any type.
local function floor_of(key)
  local floor = redis.call('MGET', key)[1]
  return floor and whole(tonumber(floor)) or 0
end

-- Raise a ts floor; it lives until the clock has passed it.
local function raise_floor(key, ts, clock)
  ts = math.max(ts, floor_of(key))
  redis.call('SET', key, as_text(ts), 'PX', as_text(math.max(0, ts - clock) + 1000))
end

-- The latest ts that can be believed: what is later was not given by us.
-- `believed` is the latest by what the daemon knows.
local function latest(clock, floor, believed)
  return math.max(clock + AHEAD, floor + STEP, whole(tonumber(believed)) or 0)
end

-- The newest ts of a list that can be believed, 0 when there is none near its end.
-- `tail` is its last entry, or false.
local function newest_ts(key, tail, limit)
  local ts = tail and ts_of(tail)
  if ts and ts <= limit then
    return ts
  end
  if tail then
    local entries = redis.call('LRANGE', key, -LOOK, -1)
    for index = #entries, 1, -1 do
      ts = ts_of(entries[index])
      if ts and ts <= limit then
        return ts
      end
    end
  end
  return 0
end

-- The index after the last entry whose ts is less than `ts`. Entries are passed over that are no
-- messages, or whose ts is after `limit`.
local function lower_bound(key, ts, limit)
  local low, high = 0, redis.call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local probe, found = middle, nil
    while not found and probe < high and probe < middle + 4 * LOOK do
      -- The first alone, for it is nearly always good.
      local last = probe == middle and middle or math.min(high, probe + LOOK) - 1
      for _, entry in ipairs(redis.call('LRANGE', key, probe, last)) do
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

-- Whether an entry is the message of `user` at `ts`; `digits` are the ts as text.
local function is_of(entry, user, ts, digits)
  if not string.find(entry, digits, 1, true) or ts_of(entry) ~= ts then
    return false
  end
  local message = decode(entry)
  return message and tostring(message.userId) == user
end

-- The index and the text of the message of `user` at `ts`, or nil.
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

-- Indices of a range and its first page.
local function page(key, first, last, longest)
  local entries = first <= last
    and redis.call('LRANGE', key, first, math.min(last, first + longest - 1)) or {}
  return {first, last, entries}
end

