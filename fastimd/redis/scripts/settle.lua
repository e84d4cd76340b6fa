-- A new connection takes over: fence the older ones and tell which appends were applied.
-- KEYS  the daemon's applied mark
-- ARGV  the new epoch, expiry of the mark in seconds
-- Returns the sequence number of the last applied append, 0 when there is no mark.
local mark = redis.call('GET', KEYS[1])
local applied = mark and string.match(mark, ':(%d+)$') or '0'
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. applied, 'EX', ARGV[2])
return tonumber(applied)
