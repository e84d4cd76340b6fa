-- Delete the messages of a user in a part of a group's list, from its end on.
-- KEYS  the list, the group's ts floor, its life, its deletions, the reports of its messages
-- ARGV  the user, the index before which the part ends ("" = the end of the list), how many entries,
--       the latest ts that the daemon believes, channel of events, the event up to its ts, seconds
--       that it is remembered
-- Returns the index before which the next part ends, 0 when there is none; and how many it deleted.
--
-- A list grows at its end and loses entries anywhere, so an entry never gets a later index: who goes
-- on before an index may see some twice, and none not at all.
local length = redis.call('LLEN', KEYS[1])
local stop = math.min(tonumber(ARGV[2]) or length, length)
local first = math.max(0, stop - ARGV[3])
local entries = stop > first and redis.call('LRANGE', KEYS[1], first, stop - 1) or {}
local clock = now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[4])
local newest = newest_ts(KEYS[1], redis.call('LINDEX', KEYS[1], -1), limit)
local gone, oldest, latest_gone, highest = {}, nil, 0, 0
for offset, entry in ipairs(entries) do
  -- Most are not the user's: those are not parsed.
  if string.find(entry, ARGV[1], 1, true) or string.find(entry, '\\', 1, true) then
    local message, ts = decode(entry), ts_of(entry)
    if message and ts and tostring(message.userId) == ARGV[1] then
      -- All entries with this text go in one pass, for finding each would take as long.
      redis.call('LSET', KEYS[1], first + offset - 1, '')
      gone[#gone + 1] = as_text(ts)
      oldest, latest_gone = math.min(oldest or ts, ts), math.max(latest_gone, ts)
      highest = ts <= limit and math.max(highest, ts) or highest
    end
  end
end
if #gone == 0 then
  return {first, 0}
end
-- Whoever writes empty entries has written no messages; they may stay.
redis.call('LREM', KEYS[1], (first > length / 2 and -1 or 1) * #gone, '')
if highest >= clock - STEP then
  raise_floor(KEYS[2], highest, clock)
end
local emptied = redis.call('EXISTS', KEYS[1]) == 0 and 'pl' or '-'
local stamp = math.max(clock, newest, highest)
local event = string.format(
  '%s%.0f,"gone":[%s],"since":%.0f,"until":%.0f}',
  ARGV[6], oldest, table.concat(gone, ','), oldest, latest_gone
)
remember(KEYS[4], KEYS[3], event, stamp, ARGV[7], emptied)
for _, ts in ipairs(redis.call('EXISTS', KEYS[5]) == 1 and gone or {}) do
  redis.pcall('ZREMRANGEBYSCORE', KEYS[5], ts, ts)
end
redis.call(PUBLISH, ARGV[5], event)
return {first, #gone}
