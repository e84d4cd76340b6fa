-- A user's read marks in some groups; who asks for them keeps them.
-- KEYS  the user's set of groups, which says where the other lies; the user's marks
-- ARGV  seconds that marks are kept, then the groups
-- Returns the mark in each group, 0 where there is none.
local marks = redis.pcall('ZMSCORE', KEYS[2], unpack(ARGV, 2))
if not marks.err then  -- else it is of another type: there are none
  redis.pcall('EXPIRE', KEYS[2], ARGV[1])  -- where nothing can be written now, they can be read
end
local found = {}
for index = 1, #ARGV - 1 do
  found[index] = whole(tonumber(marks[index])) or 0
end
return found
