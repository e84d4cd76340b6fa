-- A page of a group's messages, from a ts on.
-- KEYS  the list, the group's ts floor, its life
-- ARGV  the latest ts that the daemon believes; an id for a new life; seconds that a life is kept; the
--       epoch by which the ts is meant, or ""; the ts after which the page begins, or "" for all; 1
--       to go back instead, newest first, else 0; the most messages, the most bytes (one message
--       comes in any case)
-- Returns the id of the list's life, the newest ts that can be believed, or 0; the latest ts that can
-- be believed; 0 when the epoch is another, else 1; and the page.
local limit = latest(now(), floor_of(KEYS[2]), ARGV[1])
local tail = redis.call('LINDEX', KEYS[1], -1)
local _, id = life_of(KEYS[3], tail, ARGV[2], tonumber(ARGV[3]))
local newest = newest_ts(KEYS[1], tail, limit)
if ARGV[4] ~= '' and ARGV[4] ~= id then
  return {id, newest, limit, 0, {}}
end
local since, count, page = tonumber(ARGV[5]), tonumber(ARGV[7]), {}
if ARGV[6] == '1' then
  local stop = since and lower_bound(KEYS[1], since, limit) or redis.call('LLEN', KEYS[1])
  local entries = stop > 0 and redis.call('LRANGE', KEYS[1], math.max(0, stop - count), stop - 1) or {}
  for index = #entries, 1, -1 do
    page[#page + 1] = entries[index]
  end
elseif count > 0 then
  local start = since and lower_bound(KEYS[1], since + 1, limit) or 0
  page = redis.call('LRANGE', KEYS[1], start, start + count - 1)
end
local fitting, bytes = 0, 0
for index, entry in ipairs(page) do
  bytes = bytes + #entry
  if bytes > tonumber(ARGV[8]) and index > 1 then
    break
  end
  fitting = index
end
return {id, newest, limit, 1, {unpack(page, 1, fitting)}}
