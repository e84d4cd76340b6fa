-- What a group's moderators have decided.
-- KEYS  the list, beside which the rest lies; the policy
-- Returns the fields of the policy and their values, one after the other.
return redis.call('HGETALL', KEYS[2])
