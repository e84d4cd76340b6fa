-- A group's ts floor, and which ts can be believed.

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

