-- The life of a group's list, by which a client that comes back knows whether all is still there.
--
-- The key holds a letter and then an id. 'p': the list is empty, as it should be; 'l': it has all that
-- was said in this life and not deleted by its group; 't': all but the oldest. A list that is gone
-- while the letter is another than 'p' was lost.

-- Note that a list became empty because it was told to, all at once or by one recall after the other.
-- The latter leaves a list that had lost its oldest as one that is lost: nothing tells of those any
-- more. MGET, for the key may be of any type.
local function note_emptied(key, at_once)
  local life = redis.call('MGET', key)[1]
  if life and (at_once or string.sub(life, 1, 1) ~= 't') then
    redis.call('SET', key, 'p' .. string.sub(life, 2), 'KEEPTTL')
  end
end

-- Note that an append has begun a list, with the ts `begun_with`, or trimmed it.
local function note_change(key, life, begun_with, is_trimmed)
  local state, id = string.sub(life, 1, 1), string.sub(life, 2)
  if begun_with and state ~= 'p' then
    id = string.format('%x', begun_with)  -- the list before was lost
  end
  local now_it_is = is_trimmed and 't' or begun_with and 'l' or state
  if now_it_is .. id ~= life then
    redis.pcall('SET', key, now_it_is .. id, 'KEEPTTL')
  end
end

-- The state and the id of a life; a new one, with the id `fresh`, when there was none or the list was
-- lost. `tail` is the last entry of the list, or false; `kept` is how many seconds a life is kept.
local function life_of(key, tail, fresh, kept)
  local life = redis.call('GET', key)
  local state, id = string.sub(life or '', 1, 1), string.sub(life or '', 2)
  if not life or (not tail and state ~= 'p') then
    state, id = tail and 'l' or 'p', fresh
  elseif tail and state == 'p' then
    state = 'l'  -- somebody else has begun the list
  else
    if redis.call('TTL', key) < kept / 2 then
      redis.call('EXPIRE', key, kept)
    end
    return state, id
  end
  redis.call('SET', key, state .. id, 'EX', kept)
  return state, id
end

