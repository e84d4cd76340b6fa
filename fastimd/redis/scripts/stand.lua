-- Where a group stands, and what somebody missed who knows it up to a ts.
-- KEYS  the list, the group's ts floor, its life, its deletions
-- ARGV  the latest ts that the daemon believes; an id for a new life; seconds that a life is kept;
--       milliseconds that deletions are remembered; and of who was here before the epoch, the ts or
--       "", the most messages and the most bytes to catch up with
-- Returns the id of the list's life; the newest ts that can be believed, or 0; the latest ts that
-- can be believed; the last entry or ""; 1 when what was missed is known for certain, else 0; the
-- entries after that ts; and the deletions since, as events.
local clock = now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[1])
local tail = redis.call('LINDEX', KEYS[1], -1)
local newest = newest_ts(KEYS[1], tail, limit)
local state, id = life_of(KEYS[3], tail, ARGV[2], tonumber(ARGV[3]))
local stand = {id, newest, limit, tail or '', 0, {}, {}}
local since = tonumber(ARGV[6])
if not since or id ~= ARGV[5] or (since > 0 and since < clock - ARGV[4]) then
  return stand
end

local gone = removals(KEYS[4], since)
if #gone >= REMEMBERED then
  return stand  -- there may have been more
end
if since > newest and not tell_of(gone, since) then
  return stand  -- what the client has seen is not there: it was lost
end
local start = lower_bound(KEYS[1], since + 1, limit)
if start == 0 and state == 't' then
  return stand
end
local missed = redis.call('LRANGE', KEYS[1], start, start + ARGV[7])
local bytes = 0
for _, entry in ipairs(missed) do
  bytes = bytes + #entry
end
if #missed > tonumber(ARGV[7]) or bytes > tonumber(ARGV[8]) then
  return stand
end
stand[5], stand[6], stand[7] = 1, missed, gone
return stand
