-- Puts keys here that come from another store.
-- KEYS: prefix
-- ARGV: for each: id, digest, name, credits, held, charged, added, disabled (0 or 1), created_at, caller_ids (JSON),
--   attestation
-- Answers nothing.
for i = 1, #ARGV, 11 do
  local id, digest, name, credits, held, charged, added, disabled, created_at, caller_ids, attestation =
    unpack(ARGV, i, i + 10)
  redis_call('HSET', P .. 'key:' .. id, 'digest', digest, 'name', name, 'credits', credits, 'held', held,
    'charged', charged, 'added', added, 'disabled', disabled, 'created_at', created_at, 'caller_ids', caller_ids,
    'attestation', attestation, 'version', 1)
  redis_call('HSET', P .. 'digests', digest, id)
  redis_call('ZADD', P .. 'keys', created_at, id)
  redis_call('ZADD', P .. 'ledgers', 'LT', created_at, id)
end
