-- Keeps a new key.
-- KEYS: prefix
-- ARGV: id, digest, name, credits, charged, disabled (0 or 1), created_at, caller_ids (JSON), attestation, a token: with
--   the same again nothing is done again
-- Answers 1; 0 where the id or the digest is taken.
local id, digest, name, credits, charged, disabled, created_at, caller_ids, attestation, token = unpack(ARGV)
local key = P .. 'key:' .. id
if redis_call('EXISTS', P .. 'token:' .. token) == 1 then
  return 1
end
if redis_call('EXISTS', key) == 1 or redis_call('HEXISTS', P .. 'digests', digest) == 1 then
  return 0
end
redis_call('SET', P .. 'token:' .. token, 1, 'EX', 3600)
redis_call('HSET', key, 'digest', digest, 'name', name, 'credits', credits, 'held', 0, 'charged', charged,
  'added', credits + charged, 'disabled', disabled, 'created_at', created_at, 'caller_ids', caller_ids,
  'attestation', attestation, 'version', 1)
redis_call('HSET', P .. 'digests', digest, id)
redis_call('ZADD', P .. 'keys', created_at, id)
redis_call('ZADD', P .. 'ledgers', created_at, id)
if tonumber(credits) > 0 then
  enter(id, credits, 'added', '', created_at, credits)
end
return 1
