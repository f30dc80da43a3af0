-- Reads calls for a copy.
-- KEYS: prefix
-- ARGV: call ids
-- Answers JSON, which costs the node that asks much less than an array of arrays: for each call that is there
-- request, state, attempt, answer, outcome, charged, tries, due_at; false where there is none.
local rows = {}
for _, id in ipairs(ARGV) do
  local row = redis_call('HMGET', P .. 'call:' .. id, 'request', 'state', 'attempt', 'answer', 'outcome', 'charged',
    'tries', 'due_at')
  if row[1] then
    rows[#rows + 1] = row
  end
end
return cjson.encode(rows)
