-- Takes over some of what nobody has, or a node that is no more.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), how many at most, this node's name where it has told
--   of all that it withdraws, and for how many seconds the last acceptances of others wait for them to do so
-- Answers the calls that had begun, each as request, state, attempt, answer, outcome; the callbacks, each as request,
-- outcome, tries, due_at; 1 where there may be more.
local us, question, done, void, most, sure, patience = unpack(ARGV)
reckon(us, done, void)
local records, callbacks, ids = {}, {}, {}
if not is_live(us) or is_stale(us, question) then
  return {records, callbacks, 0}
end
local left = tonumber(most)

local function take_call(id, from)
  local row = redis_call('HMGET', P .. 'call:' .. id, 'request', 'state', 'attempt', 'answer', 'outcome', 'owner', 'route')
  redis_call('SREM', P .. 'owned:' .. from, id)
  if (row[6] or '') ~= from then
    return
  end
  if row[2] == 'accepted' then
    redis_call('HDEL', P .. 'call:' .. id, 'owner')
    enqueue_again(id, row[7], cjson.decode(row[1]))
  elseif row[2] == 'dialing' or row[2] == 'answered' then
    own(id, us)
    ids[#ids + 1] = id
    records[#records + 1] = {row[1], row[2], row[3], row[4], row[5]}
  end
end

local function take_callback(id, from, due_at)
  local row = redis_call('HMGET', P .. 'call:' .. id, 'request', 'outcome', 'tries', 'due_at', 'state', 'owner')
  redis_call('ZREM', P .. 'pending:' .. from, id)
  if (row[6] or '') == from and row[5] == 'done' then
    redis_call('HSET', P .. 'call:' .. id, 'owner', us)
    redis_call('ZADD', P .. 'pending:' .. us, due_at, id)
    ids[#ids + 1] = id
    callbacks[#callbacks + 1] = {row[1], row[2], row[3], row[4]}
  end
end

local owners = redis_call('SMEMBERS', P .. 'lost')
owners[#owners + 1] = ''
local more = 0
for _, from in ipairs(owners) do
  if left > 0 then
    for _, id in ipairs(redis_call('SRANDMEMBER', P .. 'owned:' .. from, left)) do
      take_call(id, from)
      left = left - 1
    end
  end
  if left > 0 then
    left = left - part_with_fresh(from, sure, patience, left)
  end
  if left > 0 then
    local pending = redis_call('ZRANGE', P .. 'pending:' .. from, 0, left - 1, 'WITHSCORES')
    for i = 1, #pending, 2 do
      take_callback(pending[i], from, pending[i + 1])
      left = left - 1
    end
  end
  if redis_call('EXISTS', P .. 'owned:' .. from, P .. 'pending:' .. from, P .. 'fresh:' .. from) > 0 then
    more = 1
  elseif from ~= '' then
    redis_call('SREM', P .. 'lost', from)
    redis_call('DEL', P .. 'grants:' .. from)
  end
end
local now = tonumber(redis_call('TIME')[1])
local parked = redis_call('ZRANGE', P .. 'parked', 0, -1, 'WITHSCORES')
for i = 1, #parked, 2 do
  local from = redis_call('HGET', P .. 'call:' .. parked[i], 'owner') or ''
  local left = parked[i + 1] - now
  -- More than there can be: the clock was set back.
  if left <= 0 or left > tonumber(patience) or from:match('^(.*):%d+$') == sure then
    offer({parked[i]}, from)
    redis_call('ZREM', P .. 'parked', parked[i])
  end
end
grant(us, question, ids)
return {records, callbacks, more}
