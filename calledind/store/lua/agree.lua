-- Keeps what all nodes must have in common: the first one's word holds.
-- KEYS: prefix
-- ARGV: name, this node's value
-- Answers the value that holds.
redis.call('HSETNX', KEYS[1] .. 'common', ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1] .. 'common', ARGV[1])
