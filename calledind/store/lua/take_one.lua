-- Takes one call out of the queue, that it is ended there, or from those of nodes that are no more.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), call id
-- Answers its request; nothing where it does not wait there.
local us, question, done, void, id = unpack(ARGV)
reckon(us, done, void)
if not is_live(us) or is_stale(us, question) then
  return nil
end
local ids, requests = {}, {}
local row = redis_call('HMGET', P .. 'call:' .. id, 'request', 'route', 'state')
if not row[1] then
  return nil
end
if dequeue(id, row[2], cjson.decode(row[1]).key_id) then
  claim({id}, us, ids, requests)
elseif redis_call('ZREM', P .. 'parked', id) == 1 and row[3] == 'accepted' then
  own(id, us)
  ids, requests = {id}, {row[1]}
end
grant(us, question, ids)
return requests[1]
