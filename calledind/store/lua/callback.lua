-- DONE -> DELIVERED, EXHAUSTED, or DONE once more.
-- KEYS: prefix
-- ARGV: call id, owner, state, tries, due_at (nothing where none is due)
-- Answers 1; 0 where the callback is not to be made, or not by us.
local id, us, state, tries, due_at = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'tries', 'due_at', 'outcome')
if not row[1] then
  return 0
end
if row[1] == state and row[3] == tries and (row[4] or '') == due_at then
  return 1
end
if row[1] ~= 'done' or tonumber(row[3]) > tonumber(tries) or not may(row[2], us) then
  return 0
end
local pending = P .. 'pending:' .. (row[2] or '')
redis_call('HSET', call, 'state', state, 'tries', tries)
if state == 'done' then
  redis_call('HSET', call, 'due_at', due_at)
  redis_call('ZADD', pending, due_at, id)
else
  redis_call('HDEL', call, 'due_at', 'owner')
  redis_call('ZREM', pending, id)
  redis_call('ZADD', P .. 'ended', cjson.decode(row[5]).ending.ended_at, id)
  move('done', state)
end
return 1
