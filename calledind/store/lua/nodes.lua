-- Lists all nodes; one that has gone is forgotten after a day.
-- KEYS: prefix
-- Answers name, epoch, state, beats, joined_at and figures (JSON) of each.
local rows = {}
local now = tonumber(redis_call('TIME')[1])
for _, name in ipairs(redis_call('SMEMBERS', P .. 'nodes')) do
  local node = P .. 'node:' .. name
  local row = redis_call('HMGET', node, 'epoch', 'state', 'beats', 'joined_at', 'figures', 'gone_at')
  local gone = row[2] ~= 'live' and now - (row[6] or now) > 86400
  if gone and redis_call('SISMEMBER', P .. 'lost', name .. ':' .. row[1]) == 0 then
    redis_call('DEL', node)
    redis_call('SREM', P .. 'nodes', name)
  else
    rows[#rows + 1] = {name, row[1], row[2], row[3], row[4], row[5]}
  end
end
return rows
