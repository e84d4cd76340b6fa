-- Reading list entries in the plain and the wrapped form.

-- A message as a table, or nil when the entry is not a message.
local function decode(entry)
  local ok, message = pcall(cjson.decode, entry)
  if ok and type(message) == 'string' then
    ok, message = pcall(cjson.decode, message)
  end
  if ok and type(message) == 'table' then
    return message
  end
end

-- The ts of an entry in milliseconds, or nil when the entry is not a message.
-- Our own entries end with it, so that the tail of the string is enough.
local function ts_of(entry)
  local digits = string.match(entry, '"ts":(%d+)}$', -24)
  if digits then
    return whole(tonumber(digits))
  end
  local message = decode(entry)
  if message and type(message.ts) == 'number' then
    return whole(message.ts)
  end
end

