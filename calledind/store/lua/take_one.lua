-- Takes one call out of the queue, that it is ended there.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), call id
-- Answers its request; nothing where it does not wait there.
local us, question, done, void, id = unpack(ARGV)
reckon(us, done, void)
if not is_live(us) or is_stale(us, question) or not redis_call('ZSCORE', P .. 'queue', id) then
  return nil
end
local request = claim(id, us)
grant(us, question, request and {id} or {})
return request
