-- Puts calls here that come from another store, as nobody's.
-- KEYS: prefix
-- ARGV: for each: id, key id, accepted_at, route, state, request (JSON), attempt (JSON), its number, answer (JSON),
--   outcome (JSON), charged (0 or 1), tries, due_at, ended_at; nothing where there is none
-- Answers nothing.
for i = 1, #ARGV, 14 do
  local id, key, at, route, state, request, attempt, number, answer, outcome, charged, tries, due_at, ended_at =
    unpack(ARGV, i, i + 13)
  local call = P .. 'call:' .. id
  redis_call('HSET', call, 'request', request, 'state', state, 'route', route)
  index(id, key)
  local token = request:match('"idempotency":"(' .. ('%x'):rep(32) .. ')')
  if token then
    -- What was accepted longer ago than that is not answered with.
    redis_call('SET', P .. 'again:' .. token, id, 'EX', 86400)
  end
  if attempt ~= '' then
    redis_call('HSET', call, 'attempt', attempt, 'number', number)
  end
  if answer ~= '' then
    redis_call('HSET', call, 'answer', answer)
  end
  if outcome ~= '' then
    redis_call('HSET', call, 'outcome', outcome, 'charged', charged, 'tries', tries)
  end
  if state == 'accepted' then
    enqueue(key, route, {at, id}, false)
  elseif state == 'dialing' or state == 'answered' then
    redis_call('SADD', P .. 'owned:', id)
  elseif state == 'done' then
    redis_call('HSET', call, 'due_at', due_at)
    redis_call('ZADD', P .. 'pending:', due_at, id)
  else
    redis_call('ZADD', P .. 'ended', ended_at, id)
  end
  redis_call('HINCRBY', P .. 'counts', state, 1)
end
