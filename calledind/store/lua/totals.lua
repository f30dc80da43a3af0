-- Adds up all keys, and reads the counts.
-- KEYS: prefix
-- Answers added, credits, held and charged as one text each, then the counts as HGETALL does.
local added, credits, held, charged = 0, 0, 0, 0
for _, id in ipairs(redis_call('ZRANGE', P .. 'keys', 0, -1)) do
  local row = redis_call('HMGET', P .. 'key:' .. id, 'added', 'credits', 'held', 'charged')
  added, credits, held, charged = added + row[1], credits + row[2], held + row[3], charged + row[4]
end
local sums = {added, credits, held, charged}
for i, sum in ipairs(sums) do
  sums[i] = string.format('%.0f', sum)
end
return {sums, redis_call('HGETALL', P .. 'counts')}
