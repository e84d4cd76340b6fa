-- The length of a list and its last entries, of one moment.
-- KEYS  the list, the group's ts floor
-- ARGV  the latest ts that the daemon believes, how many
-- Returns the length; the newest ts that can be believed, or 0; the latest ts that can be believed;
-- and the entries, at least one if there is one.
local limit = tonumber(ARGV[1])
local entries = redis.call('LRANGE', KEYS[1], -math.max(1, ARGV[2]), -1)
local ts = entries[1] and ts_of(entries[#entries])
if entries[1] and not (ts and ts <= limit) then
  limit = latest(now(), floor_of(KEYS[2]), limit)  -- nearly never needed
end
local newest = newest_ts(KEYS[1], entries[#entries] or false, limit)
return {redis.call('LLEN', KEYS[1]), newest, limit, entries}
