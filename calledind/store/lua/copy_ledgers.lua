-- Reads entries of ledgers for a copy, the oldest first.
-- KEYS: prefix
-- ARGV: how many of each at most, then for each key: its id, the first place, the last place (as XRANGE takes them)
-- Answers JSON: for each key as XRANGE does.
local ledgers = {}
for i = 2, #ARGV, 3 do
  local key, first, last = unpack(ARGV, i, i + 2)
  ledgers[#ledgers + 1] = redis_call('XRANGE', P .. 'ledger:' .. key, first, last, 'COUNT', ARGV[1])
end
return cjson.encode(ledgers)
