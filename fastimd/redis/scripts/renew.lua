-- Renew a daemon's lease in a group where nothing has changed for it, without a look at the others.
-- KEYS  the list, beside which the rest lies; the index of the group, the users that are on several
--       daemons, the members of this daemon
-- ARGV  the daemon's id, the milliseconds of a lease and for which members are kept after it, how
--       many fields the daemon has, and the version after its last change
-- Returns 1, or 0 when Redis does not have what the daemon had.
local clock, entry = now(), redis.call('HGET', KEYS[2], ARGV[1]) or ''
local lease, rest, noted = string.match(entry, '^(%d+)( %d+ %d+ %d (%d+))$')
if noted ~= ARGV[5] or tonumber(lease) < clock or redis.call('HLEN', KEYS[4]) ~= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], as_text(clock + ARGV[2]) .. rest)
for index = 2, 4 do
  redis.call('PEXPIRE', KEYS[index], ARGV[2] + ARGV[3])
end
return 1
