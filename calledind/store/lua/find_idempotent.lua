-- Finds the call that was accepted under a token. Who is answered with it counts on it: it is not withdrawn any more.
-- KEYS: prefix
-- ARGV: token
-- Answers the call's id; "doubt" where the node that accepted it may not have heard so, and may yet withdraw it.
local id = redis_call('GET', P .. 'again:' .. ARGV[1])
if not id then
  return nil
end
local call = P .. 'call:' .. id
local row = redis_call('HMGET', call, 'state', 'owner', 'told')
if row[1] == 'accepted' and not row[3] then
  if redis_call('ZSCORE', P .. 'parked', id) or redis_call('SISMEMBER', P .. 'fresh:' .. (row[2] or ''), id) == 1 then
    return 'doubt'
  end
  redis_call('HSET', call, 'told', 1)
end
return id
