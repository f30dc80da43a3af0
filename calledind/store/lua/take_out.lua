-- Takes calls out of the queue without a channel: those that waited too long, or for a route that is no more.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), the moment before which they were accepted (nothing:
--   whenever), the route (where there is no such moment), how many at most
-- Answers their requests.
local us, question, done, void, before, route, most = unpack(ARGV)
reckon(us, done, void)
local requests, ids = {}, {}
if not is_live(us) or is_stale(us, question) then
  return requests
end
most = tonumber(most)
if before ~= '' then
  for _, id in ipairs(redis_call('ZRANGE', P .. 'queue', '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, most)) do
    local request = claim(id, us)
    if request then
      requests[#requests + 1] = request
      ids[#ids + 1] = id
    end
  end
else
  ids, requests = claim_some(route, us, most)
end
grant(us, question, ids)
return requests
