-- Puts entries of ledgers here that come from another store, the oldest first.
-- KEYS: prefix
-- ARGV: for each: place (a whole number), key id, amount, reason, reference, at, balance
-- Answers nothing.
for i = 1, #ARGV, 7 do
  local place, key, amount, reason, reference, at, balance = unpack(ARGV, i, i + 6)
  -- The entries to come stand behind these: their places begin with the milliseconds since the epoch.
  redis_call('XADD', P .. 'ledger:' .. key, place .. '-0', 'amount', amount, 'reason', reason, 'reference', reference,
    'at', at, 'balance', balance)
  redis_call('ZADD', P .. 'ledgers', 'LT', at, key)
end
