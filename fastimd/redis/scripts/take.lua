-- Hold what is to be told of a group for a lease, note what was told of it, and take what comes next.
-- KEYS  the list, the group's ts floor, what was told of it, its queue
-- ARGV  who asks, milliseconds of a lease, milliseconds for which this is kept, how old in milliseconds
--       an event may be, 1 when messages are told, the latest ts that the daemon believes, the ts up to
--       which it knows that they were told or "", longest list (0 = any), the most messages, the most
--       bytes (one message comes in any case); what was told: "", or "event" and its place in the
--       queue, or "messages" and the ts and the entry of the last
-- Returns -1 and for how many milliseconds, when another holds it: then nothing was noted. Else how
-- many wait; the age of the first in milliseconds; the types of those that were too old and dropped;
-- 1 when messages were trimmed before they were told; and what comes next: "event", its place, type,
-- id and body; "messages", the ts after which they are, the newest ts of them, and their entries;
-- "again" when it takes longer to drop what is too old; or "", and then nobody holds it any more.
local LOOKED_BACK, DROPPED_AT_ONCE = 2000, 1000

local clock = now()
local has = redis.call('HMGET', KEYS[3], 'holder', 'until', 'ts', 'entry', 'to')
local ends = tonumber(has[2] or '') or 0
if has[1] and has[1] ~= ARGV[1] and ends >= clock then
  return {-1, ends - clock}
end
if ARGV[11] == 'event' then  -- whoever told it
  redis.call('XDEL', KEYS[4], ARGV[12])
elseif has[1] == ARGV[1] and ARGV[11] == 'messages' then
  redis.call('HSET', KEYS[3], 'ts', ARGV[12], 'entry', ARGV[13])
  redis.call('HDEL', KEYS[3], 'to')
  has[3], has[4], has[5] = ARGV[12], ARGV[13], false
end

-- The first event that is not too old: its place, when it was put there, and its fields.
local dropped, first, is_more = {}, nil, true
while not first and is_more and #dropped < DROPPED_AT_ONCE do
  is_more = false
  for _, event in ipairs(redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', dropped[1] and 100 or 1)) do
    local at = tonumber(string.match(event[1], '^%d+'))
    if clock - at <= tonumber(ARGV[4]) then
      first = {place = event[1], at = at, has = {}}
      for field = 1, #event[2], 2 do
        first.has[event[2][field]] = event[2][field + 1]
      end
      break
    end
    dropped[#dropped + 1], is_more = event[2][2], true
    redis.call('XDEL', KEYS[4], event[1])
  end
end
local waiting, oldest = redis.call('XLEN', KEYS[4]), first and first.at
if waiting == 0 then
  redis.call('DEL', KEYS[4])
end

-- The messages after the last one that was told, up to the place of that event.
local batch, before, newest, is_gap = {}, nil, nil, 0
if ARGV[5] == '1' then
  local ts, entry = whole(tonumber(has[3] or '')), has[4] or ''
  if not ts then
    ts = tonumber(begin_telling(KEYS[1], KEYS[2], KEYS[3], ARGV[6], ARGV[7]))
    entry = redis.call('HGET', KEYS[3], 'entry')
  end
  local limit = latest(clock, floor_of(KEYS[2]), ARGV[6])
  local at = entry ~= '' and redis.call('LPOS', KEYS[1], entry, 'RANK', -1, 'MAXLEN', LOOKED_BACK)
  local start = at and at + 1 or lower_bound(KEYS[1], ts + 1, limit)
  local length, longest = redis.call('LLEN', KEYS[1]), tonumber(ARGV[8])
  waiting = waiting + length - start
  local page = start < length and redis.call('LRANGE', KEYS[1], start, start + ARGV[9] - 1) or {}
  local begins = page[1] and ts_of(page[1])
  local is_first = not at and start == 0 and longest > 0 and length >= longest
  if is_first and begins and begins > ts + 1 and begins <= limit then
    ts, is_gap = begins - 1, 1
    redis.call('HSET', KEYS[3], 'ts', as_text(ts), 'entry', '')
  end
  local after = first and (tonumber(first.has.after or '') or 0)
  -- A batch that is told again ends where it ended.
  local to = whole(tonumber(has[5] or ''))
  repeat
    local bytes = 0
    before, newest = ts, ts
    for _, message in ipairs(page) do
      local its = ts_of(message)
      local is_known = its and its <= limit
      bytes = bytes + #message
      if is_known and ((after and its > after) or (to and its > to)) then
        break
      end
      if batch[1] and bytes > tonumber(ARGV[10]) then
        break
      end
      batch[#batch + 1] = message
      newest = is_known and math.max(newest, its) or newest
    end
    local is_gone = to and not batch[1]  -- all of that batch was deleted
    to = nil
  until not is_gone
  if batch[1] then
    redis.call('HSET', KEYS[3], 'to', as_text(newest))
    oldest = math.min(oldest or begins or clock, begins or clock)
  end
end

local head = {waiting, math.max(0, clock - (oldest or clock)), dropped, is_gap}
local function reply(...)
  for _, part in ipairs({...}) do
    head[#head + 1] = part
  end
  return head
end
if batch[1] or first or is_more then
  redis.call('HSET', KEYS[3], 'holder', ARGV[1], 'until', as_text(clock + ARGV[2]))
else
  redis.call('HDEL', KEYS[3], 'holder', 'until', 'to')
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
if batch[1] then
  return reply('messages', as_text(before), as_text(newest), batch)
elseif first then
  local has = first.has
  return reply('event', first.place, has.type or '', has.id or '', has.body or '')
end
return reply(is_more and 'again' or '')
