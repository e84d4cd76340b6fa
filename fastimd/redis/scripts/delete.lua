-- Delete anybody's message.
-- KEYS  the list, the group's ts floor, its life, its deletions, the reports of its messages
-- ARGV  ts, the message's entry if that is known or "", the latest ts that the daemon believes, channel
--       of events, the event up to the user, seconds that it is remembered
-- Returns 'done' and whose it was, or 'missing'; 'elsewhere' when it was not where its ts belongs.
local ts, clock = tonumber(ARGV[1]), now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[3])
local index, entry
if ARGV[2] ~= '' then
  index, entry = index_of(KEYS[1], ARGV[2]), ARGV[2]
else
  index, entry = find(KEYS[1], lower_bound(KEYS[1], ts, limit), nil, ts)
end
if not index then
  return {ARGV[2] ~= '' and 'missing' or 'elsewhere'}
end
local user = tostring(decode(entry).userId)
local newest = newest_ts(KEYS[1], redis.call('LINDEX', KEYS[1], -1), limit)
if ts <= limit and ts >= clock - STEP then
  -- The next message must not get this ts again, even if the list ran ahead of the clock.
  raise_floor(KEYS[2], ts, clock)
end
redis.call('LREM', KEYS[1], -1, entry)
local emptied = redis.call('EXISTS', KEYS[1]) == 0 and 'pl' or '-'
local stamp = math.max(clock, newest, ts <= limit and ts or 0)
local event = string.format('%s%s,"ts":%.0f}', ARGV[5], cjson.encode(user), ts)
remember(KEYS[4], KEYS[3], event, stamp, ARGV[6], emptied)
redis.pcall('ZREMRANGEBYSCORE', KEYS[5], as_text(ts), as_text(ts))
redis.call(PUBLISH, ARGV[4], event)
return {'done', user}
