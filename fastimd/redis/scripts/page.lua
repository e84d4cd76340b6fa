-- Pages of a list.

-- Indices of a range and its first page.
local function page(key, first, last, longest)
  local entries = first <= last
    and redis.call('LRANGE', key, first, math.min(last, first + longest - 1)) or {}
  return {first, last, entries}
end

