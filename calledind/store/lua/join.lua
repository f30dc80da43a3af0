-- Joins a node, or has it join again; what a former epoch of it had is to be taken over.
-- KEYS: prefix
-- ARGV: name, its epoch until now as it was seen (nothing: it was not there), instance, joined_at, figures (JSON), the
--   least that the new epoch may be
-- Answers the epoch; 0 where the node is of another epoch by now.
local name, before, instance, joined_at, figures, least = unpack(ARGV)
local node = P .. 'node:' .. name
local epoch = redis_call('HGET', node, 'epoch') or ''
if epoch ~= before then
  return 0
end
if epoch ~= '' then
  redis_call('SREM', P .. 'live', name .. ':' .. epoch)
  redis_call('SADD', P .. 'lost', name .. ':' .. epoch)
end
epoch = redis_call('INCR', P .. 'epochs')
-- A failover may have lost the last ones.
if epoch < tonumber(least) then
  epoch = tonumber(least)
  redis_call('SET', P .. 'epochs', epoch)
end
redis_call('DEL', node)
redis_call('HSET', node, 'epoch', epoch, 'instance', instance, 'state', 'live', 'beats', 0, 'joined_at', joined_at,
  'figures', figures)
redis_call('SADD', P .. 'nodes', name)
redis_call('SADD', P .. 'live', name .. ':' .. epoch)
return epoch
