-- Takes an acceptance back whose asker was told that it failed, and sees to it that none comes late.
-- KEYS: prefix
-- ARGV: call id, two owners that do not matter, seconds for which a late acceptance is refused
-- Answers 1; 0 where there is no such call, or where it goes on or is over: the node that had accepted it was away for so
-- long that others dial it, or have told a second asker of it (see find_idempotent.lua). A node that has taken it and has
-- not begun is told when it comes to that.
local id, keep = ARGV[1], ARGV[4]
local call = P .. 'call:' .. id
local now = redis_call('TIME')[1]
redis_call('ZADD', P .. 'withdrawn', now + keep, id)
redis_call('ZREMRANGEBYSCORE', P .. 'withdrawn', '-inf', '(' .. now)
local row = redis_call('HMGET', call, 'state', 'owner', 'route', 'request', 'told')
local owner = row[2] or ''
if row[1] ~= 'accepted' or row[5] then
  return 0
end
redis_call('SREM', P .. 'owned:' .. owner, id)
redis_call('SREM', P .. 'fresh:' .. owner, id)
redis_call('ZREM', P .. 'parked', id)
local request = cjson.decode(row[4])
dequeue(id, row[3], request.key_id)
redis_call('DEL', call)
strike(id, request.key_id)
if request.idempotency and request.idempotency ~= '' then
  redis_call('DEL', P .. 'again:' .. request.idempotency:sub(1, 32))
end
redis_call('HINCRBY', P .. 'counts', 'accepted', -1)
local key = P .. 'key:' .. request.key_id
redis_call('HINCRBY', key, 'held', -1)
local credits = redis_call('HINCRBY', key, 'credits', 1)
enter(request.key_id, 1, 'released', id, request.accepted_at, credits)
local number = number_of(request)
if tonumber(redis_call('ZSCORE', P .. 'floods', number)) == request.accepted_at then
  redis_call('ZREM', P .. 'floods', number)
end
return 1
