-- The messages just before one message, oldest first.
-- KEYS  the list
-- ARGV  the message's user, its ts, how many, the most messages to return at once
-- Returns what range.lua returns.
local ts = tonumber(ARGV[2])
local at = lower_bound(KEYS[1], ts)
local stop = find(KEYS[1], at, ARGV[1], ts) or at
return page(KEYS[1], math.max(0, stop - ARGV[3]), stop - 1, tonumber(ARGV[4]))
