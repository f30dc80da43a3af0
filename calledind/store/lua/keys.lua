-- Lists all keys, the oldest first.
-- KEYS: prefix
-- Answers rows as `key_row` does.
local rows = {}
for _, id in ipairs(redis_call('ZRANGE', P .. 'keys', 0, -1)) do
  rows[#rows + 1] = key_row(id)
end
return rows
