-- The life of a group's list, by which a client that comes back knows whether all is still there.
--
-- The key holds a letter, an id and two stamps, as in "l19acb7f2e10:0:1764338400000". 'p': the list is
-- empty, as it should be; 'l': it has all that was said in this life and not deleted by its group; 't':
-- all but the oldest. A list that is gone while the letter is another than 'p' was lost. The second
-- stamp is that of the newest deletion; those up to the first one may have been forgotten.

-- The letter, or nil where there is no life, the id and the stamps.
local function parts_of(life)
  local state, id, forgotten, deleted = string.match(life or '', '^([plt])([^:]*):?(%d*):?(%d*)$')
  return state, id, tonumber(forgotten) or 0, tonumber(deleted) or 0
end

local function life_text(state, id, forgotten, deleted)
  return string.format('%s%s:%.0f:%.0f', state, id, forgotten, deleted)
end

-- Note that messages were deleted. `before` is the stamp of the deletion that was the newest in
-- memory, `stamp` that of this one, or nil when it is not in memory; `emptied` has the letters behind
-- which the list is empty now, as it should be. MGET, for the key may be of any type.
local function note_deletion(key, before, stamp, emptied)
  local state, id, forgotten, deleted = parts_of(redis.call('MGET', key)[1])
  if not state then
    return
  end
  if before ~= deleted then
    forgotten = deleted
  end
  if not stamp then
    id = ''  -- of which nobody has heard
  end
  if string.find(emptied, state, 1, true) then
    state = 'p'
  end
  redis.call('SET', key, life_text(state, id, forgotten, stamp or deleted), 'KEEPTTL')
end

-- Note what an append made of a list: it has begun it, with the ts `begun_with`, or trimmed it.
local function note_append(key, life, begun_with, is_trimmed)
  local state, id, forgotten, deleted = parts_of(life)
  if not state then
    return
  end
  if begun_with and state ~= 'p' then
    id = string.format('%x', begun_with)  -- the list before was lost
  end
  local now_it_is = is_trimmed and 't' or (begun_with or state == 'p') and 'l' or state
  local text = life_text(now_it_is, id, forgotten, deleted)
  if text ~= life then
    redis.pcall('SET', key, text, 'KEEPTTL')
  end
end

-- The parts of a life; of a new one, with the id `fresh`, when there was none or the list was lost.
-- `tail` is the last entry of the list, or false; `kept` is how many seconds a life is kept.
local function life_of(key, tail, fresh, kept)
  local state, id, forgotten, deleted = parts_of(redis.call('MGET', key)[1])
  if not state or id == '' or (not tail and state ~= 'p') then
    state, id = tail and 'l' or 'p', fresh
  elseif tail and state == 'p' then
    state = 'l'  -- somebody else has begun the list
  else
    if redis.call('TTL', key) < kept / 2 then
      redis.call('EXPIRE', key, kept)
    end
    return state, id, forgotten, deleted
  end
  if redis.pcall('SET', key, life_text(state, id, forgotten, deleted), 'EX', kept).err then
    id = fresh  -- nothing can be written now: nobody will come back to this one
  end
  return state, id, forgotten, deleted
end

