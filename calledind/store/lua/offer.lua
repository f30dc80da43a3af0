-- Has calls wait for their routes that this node has accepted, and has heard that it did.
-- KEYS: prefix
-- ARGV: owner, then call ids; or "all but" and those of which it has not heard, or which it is about to withdraw
-- Answers nothing.
local us, named, ids = ARGV[1], {}, {}
if ARGV[2] ~= 'all but' then
  for i = 2, #ARGV do
    ids[i - 1] = ARGV[i]
  end
else
  for i = 3, #ARGV do
    named[ARGV[i]] = true
  end
  for _, id in ipairs(redis_call('SMEMBERS', P .. 'fresh:' .. us)) do
    if not named[id] then
      ids[#ids + 1] = id
    end
  end
end
offer(ids, us)
