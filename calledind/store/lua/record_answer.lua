-- DIALING -> ANSWERED.
-- KEYS: prefix
-- ARGV: call id, owner, owner when it happened (the one that must have the call), answer (JSON)
-- Answers 1; 0 where the call is not being dialled by us.
local id, us, former, answer = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'answer')
if row[1] == 'answered' and row[3] == answer then
  return 1
end
if row[1] ~= 'dialing' or not may(row[2], former) then
  return 0
end
redis_call('HSET', call, 'state', 'answered', 'answer', answer)
move('dialing', 'answered')
if not row[2] or row[2] == '' then
  redis_call('SREM', P .. 'owned:', id)
  own(id, us)
end
return 1
