-- ACCEPTED -> DIALING, or DIALING -> DIALING with the next attempt. A call of nobody's becomes ours.
-- KEYS: prefix
-- ARGV: call id, owner, attempt (JSON), its number, then attempts of this call of which this node was told that the
--   store could not keep them: the last one that is kept, if it is one of these, was never made
-- Answers 1; 0 where the call is not to be dialled.
local id, us, attempt, number = unpack(ARGV)
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'attempt', 'number', 'void', 'route', 'request')
local state, owner, last = row[1], row[2], tonumber(row[4] or 0)
-- A fenced node dials nothing, whether or not the call has been taken over yet.
if not may(owner, us) or not is_live(us) then
  return 0
end
if state == 'dialing' and attempt == row[3] then
  return 1
end
if state ~= 'accepted' and state ~= 'dialing' then
  return 0
end
if row[5] and row[5]:find(redis.sha1hex(attempt), 1, true) then
  return 0
end
number = tonumber(number)
local fits = number == last + 1
for i = 5, #ARGV do
  fits = fits or (ARGV[i] == row[3] and number == last)
end
if not fits then
  return 0
end
if redis_call('SREM', P .. 'fresh:' .. us, id) == 1 then
  -- A failover has taken back that we heard of its acceptance, and took it after that.
  own(id, us)
elseif not owner or owner == '' then
  if state == 'accepted' then
    dequeue(id, row[6], cjson.decode(row[7]).key_id)
  end
  redis_call('SREM', P .. 'owned:', id)
  own(id, us)
end
redis_call('HSET', call, 'state', 'dialing', 'attempt', attempt, 'number', number)
move(state, 'dialing')
return 1
