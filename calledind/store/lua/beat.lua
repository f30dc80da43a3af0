-- Says that a node is alive.
-- KEYS: prefix
-- ARGV: name, epoch, number of the heartbeat, figures (JSON), done, void (see `reckon`), then, where no channel is on
--   its way to the node or back, for each trunk its name and how many channels the node really has
-- Answers how many calls wait in all, and Redis's time: seconds, microseconds; nothing where the node has been fenced.
local name, epoch, number, figures, done, void = unpack(ARGV)
local us = name .. ':' .. epoch
local node = P .. 'node:' .. name
local row = redis_call('HMGET', node, 'epoch', 'beats')
if row[1] ~= epoch or not is_live(us) then
  return nil
end
reckon(us, done, void)
-- One that comes late must not put back what a later one has said.
if tonumber(number) > tonumber(row[2]) then
  redis_call('HSET', node, 'beats', number, 'figures', figures)
  for i = 7, #ARGV, 2 do
    if ARGV[i + 1] == '0' then
      redis_call('HDEL', P .. 'busy:' .. ARGV[i], us)
    else
      redis_call('HSET', P .. 'busy:' .. ARGV[i], us, ARGV[i + 1])
    end
  end
end
local time = redis_call('TIME')
return {all_waiting(), time[1], time[2]}
