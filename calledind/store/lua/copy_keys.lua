-- Reads keys, each with the moment that its row and its ledger are of.
-- KEYS: prefix
-- ARGV: key ids
-- Answers for each that is there: id, digest, name, credits, held, charged, added, disabled, created_at, caller_ids,
-- attestation, place of the last entry in its ledger (0-0: there is none).
local rows = {}
for _, id in ipairs(ARGV) do
  local row = redis_call('HMGET', P .. 'key:' .. id, 'digest', 'name', 'credits', 'held', 'charged', 'added', 'disabled',
    'created_at', 'caller_ids', 'attestation')
  if row[1] then
    local last = redis_call('XREVRANGE', P .. 'ledger:' .. id, '+', '-', 'COUNT', 1)[1]
    table.insert(row, 1, id)
    row[#row + 1] = last and last[1] or '0-0'
    rows[#rows + 1] = row
  end
end
return rows
