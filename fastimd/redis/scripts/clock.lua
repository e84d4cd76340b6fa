-- The clock, and numbers.

-- Above it a number of Lua, as one of JavaScript, is no longer exact.
local MAX_TS = 9007199254740991
-- Milliseconds by which a ts may be ahead of Redis's clock, and of the newest that is known.
local AHEAD, STEP = 60000, 2000
-- How far beyond the newest known ts a group goes on when Redis has lost it: a moment ago others may
-- have heard later ones.
local LEAP = 1000
-- How far ahead of the clock a ts may be without a floor: a list that is not there begins after it.
local NEAR = 20
-- Entries that are looked at for one whose ts can be believed.
local LOOK = 64

-- A number that can be a ts, or nil.
local function whole(number)
  if number and number >= 0 and number <= MAX_TS and number % 1 == 0 then
    return number
  end
end

local function as_text(number)
  return string.format('%.0f', number)
end

-- The clock of Redis, milliseconds since the epoch.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

