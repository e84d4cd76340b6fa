-- How many messages of a group are behind a read mark.
-- KEYS  the list
-- ARGV  the mark, the latest ts that can be believed
-- Returns how many entries there are from the first one on whose ts is after the mark. What has no
-- ts that can be believed was read with the message before it.

-- Nearly always no more than so many are unread.
local NEW = 16

local ts, limit, length = ARGV[1] + 1, tonumber(ARGV[2]), redis.call('LLEN', KEYS[1])
local near = length > NEW and ts_of(redis.call('LINDEX', KEYS[1], -NEW))
local at = lower_bound(KEYS[1], ts, limit, near and near < ts and length - NEW)
local stop = math.min(length, at + 4 * LOOK)
while at < stop do
  local entry = redis.call('LINDEX', KEYS[1], at)
  local found = ts_of(entry)
  if found and found <= limit then
    break
  end
  at = at + 1
end
return length - at
