-- ACCEPTED, DIALING or ANSWERED -> DONE, or DELIVERED where no callback was asked for; the credit is settled.
-- KEYS: prefix
-- ARGV: call id, owner, owner when it happened (the one that must have the call), outcome (JSON), charge (0 or 1), ended_at
-- Answers 1; 0 where there is no such call or it is another node's; for one that has ended: outcome and charged.
local id, us, former, outcome, charge, ended_at = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'route', 'request', 'outcome', 'charged')
local state, owner = row[1], row[2] or ''
if not state then
  return 0
end
if row[5] then
  return {row[5], row[6]}
end
if not may(owner, former) then
  return 0
end
local request = cjson.decode(row[4])
if state == 'accepted' then
  dequeue(id, row[3], request.key_id)
end
redis_call('SREM', P .. 'owned:' .. owner, id)
redis_call('SREM', P .. 'fresh:' .. owner, id)
redis_call('HSET', call, 'outcome', outcome, 'charged', charge, 'tries', 0)
if request.callback_url and request.callback_url ~= cjson.null then
  -- A fenced node can't make it.
  local holder = is_live(us) and us or ''
  redis_call('HSET', call, 'state', 'done', 'due_at', ended_at, 'owner', holder)
  redis_call('ZADD', P .. 'pending:' .. holder, ended_at, id)
  move(state, 'done')
else
  redis_call('HSET', call, 'state', 'delivered')
  redis_call('HDEL', call, 'owner')
  redis_call('ZADD', P .. 'ended', ended_at, id)
  move(state, 'delivered')
end
local key = P .. 'key:' .. request.key_id
redis_call('HINCRBY', key, 'held', -1)
if charge == '1' then
  redis_call('HINCRBY', key, 'charged', 1)
  enter(request.key_id, 0, 'charged', id, ended_at, redis_call('HGET', key, 'credits'))
else
  enter(request.key_id, 1, 'released', id, ended_at, redis_call('HINCRBY', key, 'credits', 1))
end
return 1
