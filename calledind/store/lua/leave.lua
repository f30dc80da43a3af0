-- A node takes leave, in steps: some of what it has is let go of in each.
-- KEYS: prefix
-- ARGV: name, epoch, how many calls and callbacks at most, its name once more where it has told of all that it
--   withdraws, and for how many seconds its last acceptances wait for it to do so where it has not
-- Answers 1 where there is more.
local name, epoch, most, sure, patience = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local us = name .. ':' .. epoch
local node = P .. 'node:' .. name
if redis_call('HGET', node, 'epoch') ~= epoch then
  return 0
end
if redis_call('SREM', P .. 'live', us) == 1 then
  redis_call('SADD', P .. 'lost', us)
  redis_call('HSET', node, 'state', 'left', 'gone_at', redis_call('TIME')[1])
  redis_call('DEL', P .. 'grants:' .. us)
end
if redis_call('SISMEMBER', P .. 'lost', us) == 0 then
  return 0
end
local ids = redis_call('SRANDMEMBER', P .. 'owned:' .. us, most)
for _, id in ipairs(redis_call('ZRANGE', P .. 'pending:' .. us, 0, most - 1)) do
  ids[#ids + 1] = id
end
for _, id in ipairs(ids) do
  let_go(id, us)
end
part_with_fresh(us, sure, patience, most)
if redis_call('EXISTS', P .. 'owned:' .. us, P .. 'pending:' .. us, P .. 'fresh:' .. us) > 0 then
  return 1
end
redis_call('SREM', P .. 'lost', us)
return 0
