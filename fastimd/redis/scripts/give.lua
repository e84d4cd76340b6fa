-- Give back what is to be told of a group, before the lease ends.
-- KEYS  the list, what was told of it
-- ARGV  who holds it
-- Returns 1 when it was held, else 0.
if redis.call('HGET', KEYS[2], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[2], 'holder', 'until')
  return 1
end
return 0
