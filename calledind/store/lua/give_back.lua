-- Has a call of ours that was not dialled wait again, in front of its key's others.
-- KEYS: prefix
-- ARGV: call id, owner, route, then attempts of which this node was told that the store could not keep them
-- Answers 1; 0 where the call is not in ACCEPTED, or another node's.
local id, us, route = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'route', 'request', 'attempt', 'number', 'void')
local state, void = row[1], row[7] or ''
if not state or not may(row[2], us) then
  return 0
end
for i = 4, #ARGV do
  -- One that was kept all the same was not made; one that has not been heard yet must not be.
  if state == 'dialing' and ARGV[i] == row[5] and tonumber(row[6]) == 1 then
    state = 'accepted'
    redis_call('HSET', call, 'state', state)
    redis_call('HDEL', call, 'attempt', 'number')
    move('dialing', 'accepted')
  end
  void = void .. redis.sha1hex(ARGV[i])
end
if state ~= 'accepted' then
  return 0
end
if void ~= '' then
  redis_call('HSET', call, 'void', void)
end
redis_call('SREM', P .. 'owned:' .. us, id)
redis_call('SREM', P .. 'fresh:' .. us, id)
redis_call('SREM', P .. 'owned:', id)
local request = cjson.decode(row[4])
if row[3] ~= route then
  dequeue(id, row[3], request.key_id)
  redis_call('HSET', call, 'route', route)
end
redis_call('HDEL', call, 'owner')
enqueue_again(id, route, request)
return 1
