-- The messages just before one message, oldest first.
-- KEYS  the list, the group's ts floor
-- ARGV  the message's user, its ts, its entry if that is known or "", the latest ts that the daemon
--       believes, how many, the most messages to return at once
-- Returns what range.lua returns; and 0 when the message was not where its ts belongs, else 1.
local ts = tonumber(ARGV[2])
local limit = latest(now(), floor_of(KEYS[2]), ARGV[4])
local at = lower_bound(KEYS[1], ts, limit)
local stop = ARGV[3] ~= '' and index_of(KEYS[1], ARGV[3]) or find(KEYS[1], at, ARGV[1], ts)
local found = page(
  KEYS[1], math.max(0, (stop or at) - ARGV[5]), (stop or at) - 1, tonumber(ARGV[6])
)
found[4] = (stop or at == 0) and 1 or 0  -- what is older than all of them is nowhere
return found
