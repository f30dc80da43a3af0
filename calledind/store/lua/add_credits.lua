-- Adds credits to a key, or takes them.
-- KEYS: prefix
-- ARGV: id, amount, now, note, the most that a key may have been given, a token: with the same again nothing is done
--   again
-- Answers the key's row as `key_row` does, nothing where there is no such key, else why it can't be: "few" and the
-- credits that are left, "many".
local id, amount, now, note, most, token = unpack(ARGV)
local key = P .. 'key:' .. id
local row = redis_call('HMGET', key, 'credits', 'added')
if not row[1] then
  return nil
end
if redis_call('EXISTS', P .. 'token:' .. token) == 1 then
  return key_row(id)
end
amount = tonumber(amount)
local credits = row[1] + amount
if credits < 0 then
  return {'few', row[1]}
end
if row[2] + amount > tonumber(most) then
  return {'many'}
end
if amount ~= 0 then
  redis_call('HINCRBY', key, 'credits', ARGV[2])
  redis_call('HINCRBY', key, 'added', ARGV[2])
  redis_call('SET', P .. 'token:' .. token, 1, 'EX', 3600)
  redis_call('ZADD', P .. 'ledgers', 'LT', now, id)
  enter(id, ARGV[2], amount > 0 and 'added' or 'taken', note, now, credits)
end
return key_row(id)
