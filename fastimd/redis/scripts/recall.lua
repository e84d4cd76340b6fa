-- Delete a user's own message.
-- KEYS  the list, the group's ts floor, its life, its deletions
-- ARGV  user, ts, the message's entry if that is known or "", the latest ts that the daemon believes,
--       oldest age in milliseconds, channel of events, the event, seconds that it is remembered
-- Returns 'done', 'old' or 'missing'; 'elsewhere' when it was not where its ts belongs.
local ts, clock = tonumber(ARGV[2]), now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[4])
local index, entry
if ARGV[3] ~= '' then
  index, entry = index_of(KEYS[1], ARGV[3]), ARGV[3]
else
  index, entry = find(KEYS[1], lower_bound(KEYS[1], ts, limit), ARGV[1], ts)
end
local is_old = clock - ts > tonumber(ARGV[5])
if not index then
  return (is_old or ARGV[3] ~= '') and 'missing' or 'elsewhere'
end
if is_old then
  return 'old'
end
local newest = newest_ts(KEYS[1], redis.call('LINDEX', KEYS[1], -1), limit)
if ts <= limit and ts >= clock - STEP then
  -- The next message must not get this ts again, even if the list ran ahead of the clock.
  raise_floor(KEYS[2], ts, clock)
end
redis.call('LREM', KEYS[1], -1, entry)
-- Where older ones were trimmed, an empty list is as good as lost. A foreign ts is no stamp.
local emptied = redis.call('EXISTS', KEYS[1]) == 0 and 'pl' or '-'
local stamp = math.max(clock, newest, ts <= limit and ts or 0)
remember(KEYS[4], KEYS[3], ARGV[7], stamp, ARGV[8], emptied)
redis.call(PUBLISH, ARGV[6], ARGV[7])
return 'done'
