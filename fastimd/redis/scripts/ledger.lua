-- Keep the visits of a daemon, for the one that tells their ends when it is killed.
-- KEYS  the ledger: visits by their connection ids, and under "" who holds it and until when
-- ARGV  who asks, whether it takes what another held until a moment ago, milliseconds for which it
--       holds it then, and for which the ledger is kept after that; how many visits have begun, and
--       each: id, what is kept; then the ids of those that are over
-- Returns how many visits there are; -1 when another holds the ledger: then nothing was done.
local clock = now()
local holder, ends = string.match(redis.call('HGET', KEYS[1], '') or '', '^(%S+) (%d+)$')
if holder and holder ~= ARGV[1] and (ARGV[2] == '0' or tonumber(ends) >= clock) then
  return -1
end
local last = 5 + 2 * ARGV[5]
local mine = ARGV[1] .. ' ' .. as_text(clock + ARGV[3])
redis.call('HSET', KEYS[1], '', mine, unpack(ARGV, 6, last))
if #ARGV > last then
  redis.call('HDEL', KEYS[1], unpack(ARGV, last + 1))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
return redis.call('HLEN', KEYS[1]) - 1
