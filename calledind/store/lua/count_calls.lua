-- Counts calls by their states.
-- KEYS: prefix
-- ARGV: call ids
-- Answers state and how many are in it, in turns.
local counts, answer = {}, {}
for _, id in ipairs(ARGV) do
  local state = redis_call('HGET', P .. 'call:' .. id, 'state')
  if state then
    counts[state] = (counts[state] or 0) + 1
  end
end
for state, count in pairs(counts) do
  answer[#answer + 1] = state
  answer[#answer + 1] = count
end
return answer
