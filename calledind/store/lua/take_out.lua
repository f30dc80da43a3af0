-- Takes calls out of the queue without a channel: those that waited too long, or for a route that is no more.
-- KEYS: prefix
-- ARGV: owner, number of the question, done, void (see `reckon`), the moment before which they were accepted (nothing:
--   whenever), the route (where there is no such moment), how many at most
-- Answers their requests, and 1 where there may be more.
local LINES = 100 -- looked at, at most; none of them is looked at again before its first call is that old
local us, question, done, void, before, route, most = unpack(ARGV)
reckon(us, done, void)
local requests, ids = {}, {}
if not is_live(us) or is_stale(us, question) then
  return {requests, 0}
end
most = tonumber(most)

local function take_expired(name)
  local line = P .. 'line:' .. name
  local key, route = name:match('^([^\n]*)\n(.*)$')
  local old = redis_call('ZRANGE', line, '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, most - #ids)
  if #old > 0 then
    redis_call('ZREM', line, unpack(old))
    count_out(route, #old)
    claim(old, us, ids, requests)
  end
  local first = redis_call('ZRANGE', line, 0, 0, 'WITHSCORES')
  if first[2] then
    redis_call('ZADD', P .. 'lines', first[2], name)
  else
    end_line(key, route)
  end
end

local more = 0
if before ~= '' then
  local names = redis_call('ZRANGE', P .. 'lines', '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, LINES)
  for _, name in ipairs(names) do
    if #ids < most then
      take_expired(name)
    end
  end
  if #ids == most or #names == LINES then
    more = 1
  end
else
  ids, requests = claim_some(route, us, most)
end
grant(us, question, ids)
return {requests, more}
