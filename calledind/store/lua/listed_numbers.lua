-- Reads some of the DoNotCall list.
-- KEYS: prefix
-- ARGV: beginnings of numbers, as the set `dnc` has them
-- Answers for each of them the ends of its numbers, with spaces between.
local ends = {}
for i, start in ipairs(ARGV) do
  ends[i] = table.concat(redis_call('SMEMBERS', P .. 'dnc:' .. start), ' ')
end
return ends
