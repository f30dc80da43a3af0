-- Changes what is not credits of a key, and tells the nodes.
-- KEYS: prefix
-- ARGV: channel, id, field, value
-- Answers 1; 0 where there is no such key.
local channel, id, field, value = unpack(ARGV)
local key = P .. 'key:' .. id
local before = redis_call('HGET', key, field)
if not before then
  return 0
end
if before ~= value then
  redis_call('HSET', key, field, value)
  redis_call('HINCRBY', key, 'version', 1)
  redis_call('PUBLISH', channel, id)
end
return 1
