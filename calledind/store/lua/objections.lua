-- Tells all that speaks against a call to this number now, where check.lua tells the first of it.
-- KEYS: prefix
-- ARGV: key id, number as one integer, now
-- Answers the codes that hold, in the order of check.lua.
local key, number, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local row = redis_call('HMGET', P .. 'key:' .. key, 'credits', 'disabled')
if not row[1] then
  return {1}
end
local codes = {}
if row[2] == '1' then
  codes[#codes + 1] = 5
end
if is_listed(number) then
  codes[#codes + 1] = 3
end
local mark = redis_call('ZSCORE', P .. 'floods', number)
if mark and math.abs(now - mark) < 60 then
  codes[#codes + 1] = 6
end
if tonumber(row[1]) < 1 then
  codes[#codes + 1] = 2
end
return codes
