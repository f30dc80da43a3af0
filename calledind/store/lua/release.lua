-- Gives a channel back.
-- KEYS: prefix
-- ARGV: owner, trunk
-- Answers nothing.
local busy = P .. 'busy:' .. ARGV[2]
if redis_call('HINCRBY', busy, ARGV[1], -1) <= 0 then
  redis_call('HDEL', busy, ARGV[1])
end
