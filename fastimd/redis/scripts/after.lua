-- A page of the messages after a moment, oldest first.
-- KEYS  the list
-- ARGV  the ts, the most messages, the most bytes (one message comes in any case)
-- Returns 1 when there are more, else 0; and the page.
local start = lower_bound(KEYS[1], tonumber(ARGV[1]) + 1)
local page = redis.call('LRANGE', KEYS[1], start, start + ARGV[2])
local count, bytes = 0, 0
for index, entry in ipairs(page) do
  bytes = bytes + #entry
  if index > tonumber(ARGV[2]) or (bytes > tonumber(ARGV[3]) and index > 1) then
    break
  end
  count = index
end
local more = count < #page and 1 or 0
return {more, {unpack(page, 1, count)}}
