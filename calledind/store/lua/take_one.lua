-- Takes one call out of the queue, that it is ended there, or from those of nodes that are no more.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), call id
-- Answers its request; nothing where it does not wait there.
local us, question, done, void, id = unpack(ARGV)
reckon(us, done, void)
if not is_live(us) or is_stale(us, question) then
  return nil
end
local request
if redis_call('ZSCORE', P .. 'queue', id) then
  request = claim(id, us)
elseif redis_call('ZREM', P .. 'parked', id) == 1 then
  local row = redis_call('HMGET', P .. 'call:' .. id, 'state', 'request')
  if row[1] == 'accepted' then
    own(id, us)
    request = row[2]
  end
end
grant(us, question, request and {id} or {})
return request
