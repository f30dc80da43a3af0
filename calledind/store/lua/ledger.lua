-- Reads a key's ledger, the newest entry first.
-- KEYS: prefix
-- ARGV: key id, how many at most, place of an entry (or nothing): only what is before it
-- Answers entries as XREVRANGE does, or nothing where there is no such key.
local id, most, before = unpack(ARGV)
if redis_call('EXISTS', P .. 'key:' .. id) == 0 then
  return nil
end
return redis_call('XREVRANGE', P .. 'ledger:' .. id, before == '' and '+' or '(' .. before, '-', 'COUNT', most)
