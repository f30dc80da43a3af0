-- Takes calls that wait for a route, each with a channel and a moment of the pace of the first trunk that has both.
--
-- The pace is a line of evenly spaced moments, by Redis's clock; a trunk that rested may catch up BURST seconds' worth
-- of them. No used moment is later than now: where one is, the clock was set back, and the line goes on from now.
--
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), route, calls of the node's own that wait, how many at
--   most, then for each trunk: name, channels, calls per second
-- Answers {trunk, request or nothing for one of the node's own} for each call; the seconds until a trunk takes one
-- more, or nothing; how many wait for the route; how many wait in all.
local BURST = 0.1
local us, question, done, void, route = unpack(ARGV, 1, 5)
local own_waiting, most = tonumber(ARGV[6]), tonumber(ARGV[7])

local trunks = {}
for i = 8, #ARGV, 3 do
  trunks[#trunks + 1] = {name = ARGV[i], channels = tonumber(ARGV[i + 1]), space = 1 / ARGV[i + 2]}
end

-- A dead node's channels are in use until its calls are ended by who takes them over.
local function channels_of(trunk)
  local name, sum = P .. 'busy:' .. trunk, 0
  local busy = redis_call('HGETALL', name)
  for i = 1, #busy, 2 do
    if is_live(busy[i]) or redis_call('SISMEMBER', P .. 'lost', busy[i]) == 1 then
      sum = sum + busy[i + 1]
    else
      redis_call('HDEL', name, busy[i])
    end
  end
  return sum
end

local moment = redis_call('TIME')
local now = moment[1] + moment[2] / 1000000

-- Answers the seconds until a trunk takes one more, 0: now; nothing: not before a channel comes free.
local function wait_of(trunk)
  if not trunk.busy then
    trunk.busy = channels_of(trunk.name)
    trunk.last = math.min(tonumber(redis_call('HGET', P .. 'pace', trunk.name) or 0), now)
    trunk.taken = 0
  end
  if trunk.busy >= trunk.channels then
    return nil
  end
  return math.max(0, trunk.last + trunk.space - now)
end

-- Answers the trunk to take; or nothing, and the seconds until there is one.
local function choose()
  local soonest
  for _, trunk in ipairs(trunks) do
    local seconds = wait_of(trunk)
    if seconds == 0 then
      return trunk, 0
    elseif seconds and (not soonest or seconds < soonest) then
      soonest = seconds
    end
  end
  return nil, soonest
end

reckon(us, done, void)
local granted, ids, requests = {}, {}, {}
local trunk, wait = choose()
if is_live(us) and not is_stale(us, question) then
  most = math.min(most, own_waiting + tonumber(redis_call('HGET', P .. 'waiting', route) or 0))
  local given = {}
  while trunk and #given < most do
    given[#given + 1] = trunk
    trunk.busy = trunk.busy + 1
    trunk.last = math.max(trunk.last + trunk.space, now - BURST)
    trunk, wait = choose()
  end
  local own_given = math.min(own_waiting, #given)
  own_waiting = own_waiting - own_given
  if #given > own_given then
    ids, requests = claim_some(route, us, #given - own_given)
  end
  for i = 1, own_given + #requests do
    granted[i] = {given[i].name, requests[i - own_given] or ''}
    given[i].taken = given[i].taken + 1
  end
end
for _, each in ipairs(trunks) do
  if each.taken and each.taken > 0 then
    redis_call('HINCRBY', P .. 'busy:' .. each.name, us, each.taken)
    redis_call('HSET', P .. 'pace', each.name, string.format('%.6f', each.last))
  end
end
grant(us, question, ids)
local waiting = tonumber(redis_call('HGET', P .. 'waiting', route) or 0)
if not wait or (waiting == 0 and own_waiting <= 0) then
  wait = ''
else
  wait = string.format('%.6f', wait)
end
return {granted, wait, waiting, all_waiting()}
