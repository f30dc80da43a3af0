-- Forgets some of the calls that are over, and of the ledgers' entries.
-- KEYS: prefix
-- ARGV: the moment before which they must have ended, how many of each at most
-- Answers how many were forgotten.
local before, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local limit = '(' .. ARGV[1]
local gone = 0
local over = redis_call('ZRANGE', P .. 'ended', '-inf', limit, 'BYSCORE', 'LIMIT', 0, most)
for _, id in ipairs(over) do
  local row = redis_call('HMGET', P .. 'call:' .. id, 'state', 'request')
  if row[1] then
    redis_call('HINCRBY', P .. 'counts', row[1], -1)
    strike(id, cjson.decode(row[2]).key_id)
    redis_call('UNLINK', P .. 'call:' .. id)
  end
  redis_call('ZREM', P .. 'ended', id)
  gone = gone + 1
end
-- A ledger is in the order of its changes, which is nearly that of their times: what is old stands at its beginning.
local LOOK = 20

local function at_of(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'at' then
      return tonumber(entry[2][i + 1])
    end
  end
end

local left = most
for _, key in ipairs(redis_call('ZRANGE', P .. 'ledgers', '-inf', limit, 'BYSCORE', 'LIMIT', 0, most)) do
  if left <= 0 then
    break
  end
  local ledger = P .. 'ledger:' .. key
  local oldest, last
  repeat
    local entries = redis_call('XRANGE', ledger, last and '(' .. last or '-', '+', 'COUNT', LOOK)
    local struck = 0
    for _, entry in ipairs(entries) do
      local at = at_of(entry)
      last = entry[1]
      if at < before and left > 0 then
        redis_call('XDEL', ledger, last)
        left, struck = left - 1, struck + 1
      elseif not oldest or at < oldest then
        oldest = at
      end
    end
    gone = gone + struck
  until struck == 0 or left == 0
  if oldest or redis_call('XLEN', ledger) == 0 then
    redis_call('ZADD', P .. 'ledgers', math.min(oldest or before, before), key)
  end
end
return gone
