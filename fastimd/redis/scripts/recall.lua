-- Delete a user's own message.
-- KEYS  the list, the group's ts floor
-- ARGV  user, ts, oldest age in milliseconds, channel of events, the event
-- Returns 'done', 'old' or 'missing'.
local ts = tonumber(ARGV[2])
local index, entry = find(KEYS[1], lower_bound(KEYS[1], ts), ARGV[1], ts)
if not index then
  return 'missing'
end
local age = now() - ts
if age > tonumber(ARGV[3]) then
  return 'old'
end
if index == redis.call('LLEN', KEYS[1]) - 1 then
  -- The next message must not get this ts again, even if the list ran ahead of the clock.
  local floor = math.max(ts, tonumber(redis.call('GET', KEYS[2]) or 0))
  local ahead = math.max(0, floor - ts - age)
  redis.call('SET', KEYS[2], string.format('%.0f', floor), 'PX', ahead + 1000)
end
redis.call('LREM', KEYS[1], -1, entry)
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 'done'
