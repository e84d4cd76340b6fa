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
redis.call('ZCARD', KEYS[4])  -- what can go wrong does so before the first write
if ts <= limit and ts >= clock - STEP then
  -- The next message must not get this ts again, even if the list ran ahead of the clock.
  raise_floor(KEYS[2], ts, clock)
end
redis.call('LREM', KEYS[1], -1, entry)
if redis.call('EXISTS', KEYS[1]) == 0 then
  note_emptied(KEYS[3], false)
end
remember(KEYS[4], ARGV[7], math.max(clock, newest, ts, floor_of(KEYS[2])), ARGV[8])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 'done'
