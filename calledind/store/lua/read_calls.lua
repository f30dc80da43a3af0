-- Reads calls.
-- KEYS: prefix
-- ARGV: names of fields with spaces between, then call ids
-- Answers for each call that is there its fields.
local fields, rows = {}, {}
for field in ARGV[1]:gmatch('%S+') do
  fields[#fields + 1] = field
end
for i = 2, #ARGV do
  local row = redis_call('HMGET', P .. 'call:' .. ARGV[i], unpack(fields))
  if row[1] then
    rows[#rows + 1] = row
  end
end
return rows
