-- Fences a node that has not beaten: from now on it dials nothing, and what it has is to be taken over.
-- KEYS: prefix
-- ARGV: name, epoch, beats as they were seen
-- Answers 1; 0 where it has beaten since, or is of another epoch.
local name, epoch, beats = unpack(ARGV)
local node = P .. 'node:' .. name
local row = redis_call('HMGET', node, 'epoch', 'beats', 'state')
if row[1] ~= epoch or row[2] ~= beats or row[3] == 'left' then
  return 0
end
if row[3] == 'live' then
  redis_call('HSET', node, 'state', 'fenced', 'gone_at', redis_call('TIME')[1])
  redis_call('SREM', P .. 'live', name .. ':' .. epoch)
  redis_call('SADD', P .. 'lost', name .. ':' .. epoch)
end
return 1
