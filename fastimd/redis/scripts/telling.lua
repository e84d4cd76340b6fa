-- What was told of a group's messages to the backend: a hash with the ts and the entry of the last one.

-- Begin where the daemon knows that telling was, or after the newest message. Returns the ts.
local function begin_telling(list, floor, told, believed, known)
  local tail = redis.call('LINDEX', list, -1)
  local ts, entry = whole(tonumber(known)), ''
  if not ts then
    ts, entry = newest_ts(list, tail, latest(now(), floor_of(floor), believed)), tail or ''
  end
  redis.call('HSET', told, 'ts', as_text(ts), 'entry', entry)
  return as_text(ts)
end

