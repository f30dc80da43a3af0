-- DONE, DELIVERED or EXHAUSTED -> DONE with no tries made, and ours to make.
-- KEYS: prefix
-- ARGV: call id, owner, due_at
-- Answers 1; 0 where no callback was asked for, the call has not ended, or the callback is another node's to make.
local id, us, due_at = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'tries', 'due_at', 'request')
local state, owner = row[1], row[2] or ''
if state ~= 'done' and state ~= 'delivered' and state ~= 'exhausted' then
  return 0
end
local url = cjson.decode(row[5]).callback_url
if not url or url == cjson.null or not may(owner, us) or not is_live(us) then
  return 0
end
redis_call('HSET', call, 'state', 'done', 'tries', 0, 'due_at', due_at, 'owner', us)
redis_call('ZREM', P .. 'pending:' .. owner, id)
redis_call('ZADD', P .. 'pending:' .. us, due_at, id)
if state ~= 'done' then
  redis_call('ZREM', P .. 'ended', id)
  move(state, 'done')
end
return 1
