-- How a group's channel is told: in a cluster it is sharded.
local PUBLISH = 'PUBLISH'

