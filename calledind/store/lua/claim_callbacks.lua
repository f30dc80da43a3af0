-- Takes callbacks that are nobody's.
-- KEYS: prefix
-- ARGV: owner, how many at most
-- Answers how many were taken.
local us, most = unpack(ARGV)
if not is_live(us) then
  return 0
end
local found = redis_call('ZRANGE', P .. 'pending:', 0, most - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  redis_call('ZREM', P .. 'pending:', found[i])
  redis_call('HSET', P .. 'call:' .. found[i], 'owner', us)
  redis_call('ZADD', P .. 'pending:' .. us, found[i + 1], found[i])
end
return #found / 2
