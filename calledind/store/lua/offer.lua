-- Has calls wait for their routes that this node has accepted, and has heard that it did.
-- KEYS: prefix
-- ARGV: owner, then call ids; or "all but" and those of which it has not heard, or which it is about to withdraw
-- Answers nothing.
local us = ARGV[1]
if ARGV[2] ~= 'all but' then
  for i = 2, #ARGV do
    offer(ARGV[i], us)
  end
  return
end
local kept = {}
for i = 3, #ARGV do
  kept[ARGV[i]] = true
end
for _, id in ipairs(redis_call('SMEMBERS', P .. 'fresh:' .. us)) do
  if not kept[id] then
    offer(id, us)
  end
end
