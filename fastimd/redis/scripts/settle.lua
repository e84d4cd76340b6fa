-- Settle what was sent before: fence it off, and tell which appends were applied.
-- KEYS  the daemon's applied mark
-- ARGV  the new epoch, the last append whose fate is known, expiry of the mark in seconds
-- Returns the sequence number of the last applied append.
local mark = redis.call('GET', KEYS[1])
local applied = math.max(tonumber(mark and string.match(mark, ':(%d+)$') or 0), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], string.format('%s:%.0f', ARGV[1], applied), 'EX', ARGV[3])
return applied
