-- Take a user's turn in a group in slow mode.
-- KEYS  when the user last had one, and the nonce of that message
-- ARGV  seconds from one turn to the next, the nonce of this message or ""
-- Returns 0 when it is the user's turn, else the milliseconds until it is. A message with the nonce
-- of the last one is that one, said again.
local clock, pause = now(), ARGV[1] * 1000
local digits, nonce = string.match(redis.call('MGET', KEYS[1])[1] or '', '^(%d+):(.*)$')
local last = whole(tonumber(digits or ''))
if last and last <= clock and last + pause > clock then
  return (ARGV[2] ~= '' and ARGV[2] == nonce) and 0 or last + pause - clock
end
redis.call('SET', KEYS[1], as_text(clock) .. ':' .. ARGV[2], 'PX', as_text(pause))
return 0
