-- Puts numbers on the DoNotCall list, or takes them off it.
-- KEYS: prefix
-- ARGV: SADD or SREM, then the numbers, each as one integer
-- Answers how many of them were new, or were there.
local command, count = ARGV[1], 0
for i = 2, #ARGV do
  local start, last = ARGV[i]:sub(1, -5), tonumber(ARGV[i]:sub(-4))
  local numbers = P .. 'dnc:' .. start
  if redis_call(command, numbers, last) == 1 then
    count = count + 1
    if command == 'SADD' then
      redis_call('SADD', P .. 'dnc', start)
    elseif redis_call('EXISTS', numbers) == 0 then
      redis_call('SREM', P .. 'dnc', start)
    end
  end
end
if count > 0 then
  redis_call('HINCRBY', P .. 'counts', 'dnc', command == 'SADD' and count or -count)
end
return count
