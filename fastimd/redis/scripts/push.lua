-- Put an event into the queue of its group; the oldest ones are dropped when there are too many.
-- KEYS  the list, the group's ts floor, the queue
-- ARGV  the latest ts that the daemon believes, the longest queue, milliseconds for which it is kept,
--       the event: its type, its id, its body
-- Returns the types of those that were dropped.
-- The event stands after the messages that there are now, and before all later ones.
local tail, after = redis.pcall('LINDEX', KEYS[1], -1), 0
if type(tail) == 'string' then
  after = newest_ts(KEYS[1], tail, latest(now(), floor_of(KEYS[2]), ARGV[1]))
end
local event = {'type', ARGV[4], 'id', ARGV[5], 'body', ARGV[6], 'after', as_text(after)}
redis.call('XADD', KEYS[3], '*', unpack(event))
local over, dropped = redis.call('XLEN', KEYS[3]) - ARGV[2], {}
if over > 0 then
  for _, oldest in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', math.min(over, 100))) do
    dropped[#dropped + 1] = oldest[2][2]
    redis.call('XDEL', KEYS[3], oldest[1])
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return dropped
