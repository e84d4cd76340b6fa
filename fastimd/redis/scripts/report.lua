-- Report a message of a group to its moderators.
-- KEYS  the list, the group's ts floor, the reports by the ts of their messages
-- ARGV  ts, the message's entry if that is known or "", the latest ts that the daemon believes, who
--       reports it, the rest of the report from its moment on, the most reports, seconds that they
--       are kept
-- Returns 'done' and whose message it is; 'known' when this user has reported it before; or 'missing';
-- 'elsewhere' when it was not where its ts belongs.
local ts, clock = tonumber(ARGV[1]), now()
local entry = ARGV[2]
if entry ~= '' then
  if not index_of(KEYS[1], entry) then
    return {'missing'}
  end
else
  local limit = latest(clock, floor_of(KEYS[2]), ARGV[3])
  local _, found = find(KEYS[1], lower_bound(KEYS[1], ts, limit), nil, ts)
  if not found then
    return {'elsewhere'}
  end
  entry = found
end
for _, report in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], as_text(ts), as_text(ts))) do
  local read = decode(report)
  if read and read.by == ARGV[4] then
    return {'known'}
  end
end
local user = tostring(decode(entry).userId)
redis.call('ZADD', KEYS[3], as_text(ts), string.format(
  '{"ts":%.0f,"user":%s,"by":%s,"at":%.0f,%s',
  ts, cjson.encode(user), cjson.encode(ARGV[4]), clock, ARGV[5]
))
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -ARGV[6] - 1)
redis.call('EXPIRE', KEYS[3], ARGV[7])
return {'done', user}
