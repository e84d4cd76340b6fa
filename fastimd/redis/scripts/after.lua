-- A page of the messages after one that was handed on, oldest first.
-- KEYS  the list, the group's ts floor, its deletions, its life
-- ARGV  the entry of that message or "", the newest ts that was handed on, the latest ts that the
--       daemon believes, the most messages, the most bytes (one message comes in any case), the id
--       of the life that the list had then, or ""
-- Returns 1 when there are more, else 0; the latest ts that can be believed; the page; the deletions
-- since that ts, as events; 1 when nothing is missing before the page but what they tell of, else 0:
-- the list was lost, or trimmed beyond that message; and the id of its life, or "".
local ts, clock = tonumber(ARGV[2]), now()
local limit = latest(clock, floor_of(KEYS[2]), ARGV[3])
-- Who missed more than that many is helped by the ts as well.
local at = ARGV[1] ~= '' and redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1, 'MAXLEN', 2000)
local start = at and at + 1 or lower_bound(KEYS[1], ts + 1, limit)
local page = redis.call('LRANGE', KEYS[1], start, start + ARGV[4])
local count, bytes = 0, 0
for index, entry in ipairs(page) do
  bytes = bytes + #entry
  if index > tonumber(ARGV[4]) or (bytes > tonumber(ARGV[5]) and index > 1) then
    break
  end
  count = index
end
-- The list may have been lost, and be behind what was heard of it: the next message must not be.
if ts > clock and newest_ts(KEYS[1], redis.call('LINDEX', KEYS[1], -1), limit) < ts then
  -- Where nothing can be written now, the daemons' own knowledge must do.
  redis.pcall('SET', KEYS[2], as_text(math.max(ts, floor_of(KEYS[2]))), 'PX', as_text(ts - clock + 1000))
end
local gone, is_certain = removals(KEYS[3], ts), 1
local state, id = parts_of(redis.call('MGET', KEYS[4])[1])
id = id or ''
if start == 0 and (id ~= '' or ARGV[6] ~= '') then  -- else nobody asks
  local is_lost = id ~= ARGV[6] or (state ~= 'p' and redis.call('EXISTS', KEYS[1]) == 0)
  is_certain = not is_lost and state ~= 't' and (ts == 0 or tell_of(gone, ts)) and 1 or 0
end
return {count < #page and 1 or 0, limit, {unpack(page, 1, count)}, gone, is_certain, id}
