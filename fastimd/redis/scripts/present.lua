-- Note who of a daemon's users came into a group and left it, renew the daemon's lease there, and
-- tell who is in the group. What other daemons must know is published to those that want it.
-- KEYS  the list, beside which the rest lies; the index of the group, the users that are on several
--       daemons, then the members of this daemon and those of others
-- ARGV  the ids of the daemons whose members are in KEYS, how many they are before them; then: the
--       milliseconds of a lease and for which members are kept after it, whether the daemon wants
--       to be told, up to how many users anybody is, up to how many connections all are listed (-1:
--       they are not), how the changes are meant, how many connections, users and fields the daemon
--       has after them, how many fields before, and the version that was answered then; the group;
--       then the changes: user and value
-- A value is a JSON array of the user's connections on this daemon, empty for one who has just gone
-- and may come back; "" takes the user out. Changes are meant as "told" ones, or as a part of all
-- that the daemon has: the first ("anew"), or a "later" one.
-- Returns "AGAIN" and the ids of daemons whose members have to be in KEYS too; "ANEW" when Redis does
-- not have what the daemon had before; else when the index was begun, its version before and after,
-- how many connections and users are in the group and how many users of this daemon, how many daemons
-- have died, a channel and why it may not be published in or "", who came, or came back, with their
-- values, who has gone, and all with their values or nil.
local places, keys = tonumber(ARGV[1]), {}
for place = 1, places do
  keys[ARGV[1 + place]] = KEYS[3 + place]
end
local me, mine, at = ARGV[2], KEYS[4], places + 1
local lease, kept, wants, announced = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
local listed, how, fields, had = tonumber(ARGV[at + 5]), ARGV[at + 6], ARGV[at + 9], tonumber(ARGV[at + 10])
local noted, group, first_change = tonumber(ARGV[at + 11]), ARGV[at + 12], at + 13

local clock = now()
local daemons, born, version = read_index(KEYS[2])
local ids, others, dead = {}, {}, {}
for id, daemon in pairs(daemons) do
  if daemon.lease < clock then
    dead[#dead + 1] = id
  elseif id ~= me then
    ids[#ids + 1] = id
    others[#others + 1] = keys[id]
  end
end
local needs_others = first_change <= #ARGV or #dead > 0 or how == 'anew' or listed >= 0
if needs_others and #others < #ids then
  return {'AGAIN', ids}
end
if how ~= 'anew' and had > 0 then
  local entry = daemons[me]
  if not entry or entry.lease < clock or entry.noted ~= noted
    or redis.call('HLEN', mine) ~= had then
    return {'ANEW'}
  end
end
for _, id in ipairs(dead) do
  redis.call('HDEL', KEYS[2], id)
  daemons[id] = nil
end
if not born then
  born, version = clock, clock
end
local before = version

-- Count the daemons where a user has connections; tells on how many others, and whether another one
-- has the user at all.
local is_shared = redis.call('EXISTS', KEYS[3]) == 1
local function count(user)
  local value = redis.call('HGET', mine, user)
  local with_others, is_elsewhere = 0, false
  for _, key in ipairs(others) do
    local value = redis.call('HGET', key, user)
    if value then
      is_elsewhere = true
      with_others = with_others + (value ~= '[]' and 1 or 0)
    end
  end
  local daemons_with = with_others + (value and value ~= '[]' and 1 or 0)
  if daemons_with > 1 then
    redis.call('HSET', KEYS[3], user, daemons_with)
  elseif is_shared then
    redis.call('HDEL', KEYS[3], user)
  end
  return with_others, is_elsewhere
end

local come, gone = {}, {}
if how == 'anew' then
  redis.call('DEL', mine)
end
for index = first_change, #ARGV, 2 do
  local user, value = ARGV[index], ARGV[index + 1]
  local was = how == 'told' and redis.call('HGET', mine, user)
  if value == '' then
    redis.call('HDEL', mine, user)
  else
    redis.call('HSET', mine, user, value)
  end
  local with_others, is_elsewhere = count(user)
  local is_here, was_here = value ~= '' and value ~= '[]', was and was ~= '[]'
  if how == 'told' and is_here and not was_here and with_others == 0 then
    come[#come + 1] = user
    come[#come + 1] = value
  elseif was and value == '' and not is_elsewhere then
    gone[#gone + 1] = user
  end
end
if #dead > 0 or how == 'anew' then
  for _, user in ipairs(redis.call('HKEYS', KEYS[3])) do
    count(user)
  end
end

if #come + #gone + #dead > 0 or how ~= 'told' then
  version = version + 1
end
daemons[me] = nil
if fields ~= '0' then
  local entry = {as_text(clock + lease), ARGV[at + 7], ARGV[at + 8], wants, as_text(version)}
  redis.call('HSET', KEYS[2], me, table.concat(entry, ' '))
  redis.call('PEXPIRE', mine, lease + kept)
  daemons[me] = {clients = tonumber(entry[2]), users = tonumber(entry[3])}
  ids[#ids + 1] = me
else
  redis.call('HDEL', KEYS[2], me)
  redis.call('DEL', mine)
end
local clients, users = 0, 0
for _, daemon in pairs(daemons) do
  clients, users = clients + daemon.clients, users + daemon.users
end
for _, daemons_with in ipairs(redis.call('HVALS', KEYS[3])) do
  users = users - daemons_with + 1
end
if #ids > 0 then
  redis.call('HSET', KEYS[2], 'born', as_text(born), 'version', as_text(version))
  redis.call('PEXPIRE', KEYS[2], lease + kept)
  redis.call('PEXPIRE', KEYS[3], lease + kept)
else
  redis.call('DEL', KEYS[2], KEYS[3])
end

local refused, why = '', ''
if #come + #gone > 0 and users <= announced then
  local letter
  for id, daemon in pairs(daemons) do
    if daemon.wants then
      letter = letter or cjson.encode({
        group = group, version = as_text(version), come = #come > 0 and come or nil,
        gone = #gone > 0 and gone or nil,
      })
      local answer = redis.pcall('PUBLISH', 'fastimd:to:' .. id, letter)
      if type(answer) == 'table' then
        refused, why = 'fastimd:to:' .. id, answer.err
      end
    end
  end
end

local all
if listed >= 0 and clients <= listed then
  all = {}
  for _, id in ipairs(ids) do
    for _, each in ipairs(redis.call('HGETALL', keys[id])) do
      all[#all + 1] = each
    end
  end
end
return {
  as_text(born), as_text(before), as_text(version), clients, users,
  redis.call('HLEN', mine), #dead, {refused, why},
  come, gone, all or false,
}
