-- Where a group stands, and what somebody missed who knows it up to a ts.
-- KEYS  the list, the group's ts floor, its life, its deletions
-- ARGV  the latest ts that the daemon believes; an id for a new life; seconds that a life is kept;
--       and of who was here before the epoch, the ts or "", the most messages and the most bytes to
--       catch up with
-- Returns the id of the list's life; the newest ts that can be believed, or 0; the latest ts that
-- can be believed; the last entry or ""; 1 when what was missed is known for certain, else 0; the
-- entries after that ts; and the deletions since, as events.
local limit = latest(now(), floor_of(KEYS[2]), ARGV[1])
local tail = redis.call('LINDEX', KEYS[1], -1)
local newest = newest_ts(KEYS[1], tail, limit)
local state, id, forgotten, deleted = life_of(KEYS[3], tail, ARGV[2], tonumber(ARGV[3]))
local stand = {id, newest, limit, tail or '', 0, {}, {}}
local since = tonumber(ARGV[5])
if not since or id ~= ARGV[4] then
  return stand
end

-- Every deletion since must be in memory.
local gone = removals(KEYS[4], since)
local is_lost = deleted > 0 and since <= deleted and newest_removal(KEYS[4]) ~= deleted
if is_lost or (forgotten > 0 and since <= forgotten) or #gone >= REMEMBERED then
  return stand
end

-- The client goes on behind the message that it has seen last. Where that is not there it must have
-- been deleted: else it was lost, and others with it. Several Java servers may have given one ts twice,
-- and stored entries slightly out of order.
local start = lower_bound(KEYS[1], since + 1, limit)
if since > 0 then
  local first, count = math.max(0, start - 1 - LOOK), 0
  for offset, entry in ipairs(redis.call('LRANGE', KEYS[1], first, start + LOOK)) do
    if ts_of(entry) == since then
      start, count = first + offset, count + 1
    end
  end
  if count > 1 or (count == 1) == tell_of(gone, since) then
    return stand
  end
end
if start == 0 and state == 't' then
  return stand
end

local missed = redis.call('LRANGE', KEYS[1], start, start + ARGV[6])
local bytes = 0
for _, texts in ipairs({missed, gone}) do
  for _, text in ipairs(texts) do
    bytes = bytes + #text
  end
end
if #missed > tonumber(ARGV[6]) or bytes > tonumber(ARGV[7]) then
  return stand
end
stand[5], stand[6], stand[7] = 1, missed, gone
return stand
