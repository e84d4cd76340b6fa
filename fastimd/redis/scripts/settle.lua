-- Settle what was sent before: fence it off, and tell which appends were applied.
-- KEYS  the daemon's applied mark
-- ARGV  the new epoch, the last append whose fate is known, expiry of the mark in seconds
-- Returns the sequence number of the last applied append; and 1 when there was a mark, else 0.
local mark = redis.call('MGET', KEYS[1])[1]
local applied = math.max(tonumber(mark and string.match(mark, ':(%d+)$') or 0), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. as_text(applied), 'EX', ARGV[3])
return {applied, mark and 1 or 0}
