-- What a group list shows of a group, of one moment: length, newest entry, milliseconds to expiry.
-- KEYS  the list
return {
  redis.call('LLEN', KEYS[1]), redis.call('LINDEX', KEYS[1], -1), redis.call('PTTL', KEYS[1])
}
