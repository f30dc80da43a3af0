-- Lists calls that are not ended, do not wait, and are not another live node's.
-- KEYS: prefix
-- ARGV: owner
-- Answers their ids.
local owners = redis_call('SMEMBERS', P .. 'lost')
owners[#owners + 1] = ''
if redis_call('SISMEMBER', P .. 'lost', ARGV[1]) == 0 then
  owners[#owners + 1] = ARGV[1]
end
local ids = {}
for _, owner in ipairs(owners) do
  for _, id in ipairs(redis_call('SUNION', P .. 'owned:' .. owner, P .. 'fresh:' .. owner)) do
    ids[#ids + 1] = id
  end
end
for _, id in ipairs(redis_call('ZRANGE', P .. 'parked', 0, -1)) do
  ids[#ids + 1] = id
end
return ids
