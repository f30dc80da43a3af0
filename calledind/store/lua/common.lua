-- What several decisions share. It stands in front of each of them when they are loaded into Redis.
--
-- KEYS[1] of every script is the prefix of all names. The others are made from it, as one Redis holds them all:
--
--   keys                  zset: key id by its time of creation
--   digests               hash: digest of an api key -> key id
--   key:ID                hash: digest, name, credits, held, charged, added, disabled, created_at, caller_ids (JSON),
--                         attestation, version (counts the changes of what is not credits)
--   ledger:KEY            stream: one entry for each change of the key's credits
--   ledgers               zset: key id by a time before which its ledger has nothing
--   call:ID               hash: request (JSON of model.Call), state, route, owner (none: nobody's), attempt (JSON),
--                         number (of the attempt), void (digests of attempts that must not begin any more),
--                         answer (JSON), outcome (JSON), charged, tries, due_at, told (a second asker was answered with
--                         it, see find_idempotent.lua)
--   calls, calls:KEY      zsets of scores 0: ids of all calls, and of a key's; ids sort by time
--   again:TOKEN           string: the call that was accepted under this token of a request that may be repeated
--   withdrawn             zset: calls that must not be accepted any more, by until when, by Redis's clock
--   token:TOKEN           string: what was asked for under this token is done
--   floods                zset: number by the time of its last accepted call
--   dnc, dnc:START        sets: the DoNotCall list, all but the last four digits, and to each of those its last four
--   counts                hash: state -> calls in it; dnc -> numbers on the list
--   fresh:OWNER           set: calls that a node has accepted, and has not said yet that it heard so
--   parked                zset: such calls of nodes that are no more, from when they wait all the same, by Redis's clock
--   waiting               hash: route -> calls that wait for it
--   ring:ROUTE            zset: keys with calls that wait for a route, by their turns
--   line:KEY(newline)ROUTE  zset: a key's calls that wait for a route, by the time of their acceptance
--   lines                 zset: KEY(newline)ROUTE by a time before which that line has nothing
--   pace                  hash: trunk -> moment of its pace that was used last, by Redis's clock
--   busy:TRUNK            hash: owner -> channels
--   audio:NAME            hash: codec -> octets
--   node:NAME             hash: epoch, instance, state (live, fenced, left), beats, joined_at, figures, gone_at
--   nodes, epochs         set of names; the last epoch
--   live, lost            sets of owners, "NAME:EPOCH": alive; to be taken over
--   owned:OWNER           set: calls of a node (none: nobody's) that are not ended, and do not wait
--   pending:OWNER         zset: callbacks of a node (none: nobody's), by when they are due
--   grants:OWNER          hash: number of a question -> call ids it was answered with; see `reckon`
--   common                hash: what all nodes must have in common; see agree.lua
--   ended                 zset: calls that are over, by the time of their end
--   schema                number of all of this, see `redis_schema`
--   loading               string: all of this is on its way here from another store

local P = KEYS[1]
local redis_call = redis.call

local function is_live(us)
  return redis_call('SISMEMBER', P .. 'live', us) == 1
end

-- Whether a node may change a call. A fenced one may still say what became of its own, until that is taken over.
local function may(owner, us)
  if owner and owner ~= '' then
    return owner == us
  end
  return is_live(us)
end

local function number_of(request)
  return '1' .. request.country_code .. request.phone_number
end

local function move(from, to)
  redis_call('HINCRBY', P .. 'counts', from, -1)
  redis_call('HINCRBY', P .. 'counts', to, 1)
end

local function index(id, key)
  redis_call('ZADD', P .. 'calls', 0, id)
  redis_call('ZADD', P .. 'calls:' .. key, 0, id)
end

local function strike(id, key)
  redis_call('ZREM', P .. 'calls', id)
  redis_call('ZREM', P .. 'calls:' .. key, id)
end

-- keys

local KEY_FIELDS = {
  'name', 'credits', 'held', 'charged', 'disabled', 'created_at', 'caller_ids', 'attestation', 'version', 'added',
}

-- Answers id, then KEY_FIELDS; nothing where there is no such key.
local function key_row(id)
  local row = redis_call('HMGET', P .. 'key:' .. id, unpack(KEY_FIELDS))
  if not row[1] then
    return nil
  end
  table.insert(row, 1, id)
  return row
end

local function enter(key, amount, reason, reference, at, balance)
  redis_call('XADD', P .. 'ledger:' .. key, '*', 'amount', amount, 'reason', reason, 'reference', reference,
    'at', at, 'balance', balance)
end

-- admission

local function is_listed(number)
  return redis_call('SISMEMBER', P .. 'dnc:' .. number:sub(1, -5), tonumber(number:sub(-4))) == 1
end

-- Answers the code, then credits, held and version of the key.
local function verdict(key, number, now)
  local row = redis_call('HMGET', P .. 'key:' .. key, 'credits', 'held', 'disabled', 'version')
  local credits = tonumber(row[1])
  if not credits then
    return 1
  end
  local code = 0
  if row[3] == '1' then
    code = 5
  elseif is_listed(number) then
    code = 3
  else
    local mark = redis_call('ZSCORE', P .. 'floods', number)
    if mark and math.abs(now - mark) < 60 then
      code = 6
    elseif credits < 1 then
      code = 2
    end
  end
  return code, credits, tonumber(row[2]), row[4]
end

-- the queue

local function line_of(key, route)
  return P .. 'line:' .. key .. '\n' .. route
end

-- Has calls of a key wait for a route. `members`: the time of the acceptance and the id of each, in turns.
local function enqueue(key, route, members, in_front)
  local line = line_of(key, route)
  local added = redis_call('ZADD', line, unpack(members))
  if added == 0 then
    return
  end
  redis_call('HINCRBY', P .. 'waiting', route, added)
  redis_call('ZADD', P .. 'lines', redis_call('ZRANGE', line, 0, 0, 'WITHSCORES')[2], key .. '\n' .. route)
  local ring = P .. 'ring:' .. route
  if in_front then
    local next_turn = redis_call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    if next_turn[1] ~= key then
      redis_call('ZADD', ring, next_turn[2] and next_turn[2] - 1 or 0, key)
    end
  elseif not redis_call('ZSCORE', ring, key) then
    local last = redis_call('ZRANGE', ring, -1, -1, 'WITHSCORES')
    redis_call('ZADD', ring, last[2] and last[2] + 1 or 0, key)
  end
end

-- Has a call wait once more, in front of its key's others.
local function enqueue_again(id, route, request)
  enqueue(request.key_id, route, {request.accepted_at, id}, true)
end

-- A line that has no call any more has no turn, and can't have one that waits too long.
local function end_line(key, route)
  redis_call('ZREM', P .. 'ring:' .. route, key)
  redis_call('ZREM', P .. 'lines', key .. '\n' .. route)
end

local function count_out(route, count)
  if redis_call('HINCRBY', P .. 'waiting', route, -count) <= 0 then
    redis_call('HDEL', P .. 'waiting', route)
  end
end

-- Answers how many calls wait in all.
local function all_waiting()
  local sum = 0
  for _, count in ipairs(redis_call('HVALS', P .. 'waiting')) do
    sum = sum + count
  end
  return sum
end

-- Answers whether the call did wait.
local function dequeue(id, route, key)
  local line = line_of(key, route)
  if redis_call('ZREM', line, id) == 0 then
    return false
  end
  count_out(route, 1)
  if redis_call('EXISTS', line) == 0 then
    end_line(key, route)
  end
  return true
end

local function offer_some(ids, us)
  redis_call('SREM', P .. 'fresh:' .. us, unpack(ids))
  local offered, lines, order = {}, {}, {}
  for _, id in ipairs(ids) do
    local row = redis_call('HMGET', P .. 'call:' .. id, 'owner', 'state', 'route', 'request')
    -- Where that is an owner of before, the call is parked, and stays so.
    if row[1] == us and row[2] == 'accepted' then
      redis_call('HDEL', P .. 'call:' .. id, 'owner')
      offered[#offered + 1] = id
      local request = cjson.decode(row[4])
      local name = line_of(request.key_id, row[3])
      if not lines[name] then
        lines[name] = {key = request.key_id, route = row[3], members = {}}
        order[#order + 1] = lines[name]
      end
      local members = lines[name].members
      members[#members + 1] = request.accepted_at
      members[#members + 1] = id
    end
  end
  if #offered > 0 then
    redis_call('ZREM', P .. 'parked', unpack(offered))
  end
  for _, line in ipairs(order) do
    enqueue(line.key, line.route, line.members, false)
  end
end

-- Has calls that `us` accepted wait for their routes. Not before that node has heard that they are accepted: where it does
-- not hear, whoever asked is told that the call failed, and it is withdrawn before anybody dials it, unless the node is
-- away for longer than its lease and what its calls are parked for.
local function offer(ids, us)
  -- Lua's stack does not hold many more at a time.
  for first = 1, #ids, 1000 do
    offer_some({unpack(ids, first, math.min(first + 999, #ids))}, us)
  end
end

-- Parts with some calls that a node which is no more had accepted. `sure`: name of the node that asks, where it has told
-- of all that it withdraws. Others' calls wait for that node to come back and tell, for so many seconds. Answers how
-- many they were.
local function part_with_fresh(from, sure, patience, most)
  local is_sure = from:match('^(.*):%d+$') == sure
  local ids = redis_call('SRANDMEMBER', P .. 'fresh:' .. from, most)
  if is_sure then
    offer(ids, from)
  else
    for _, id in ipairs(ids) do
      redis_call('SREM', P .. 'fresh:' .. from, id)
      redis_call('ZADD', P .. 'parked', redis_call('TIME')[1] + patience, id)
    end
  end
  return #ids
end

local function own(id, us)
  redis_call('HSET', P .. 'call:' .. id, 'owner', us)
  redis_call('SADD', P .. 'owned:' .. us, id)
end

-- Takes calls out of a key's lines by turns: `share` of each of these keys. Answers their ids in the order of the turns.
local function pop_by_turns(route, keys, share)
  local ring, lines, turns = P .. 'ring:' .. route, {}, {}
  local turn = redis_call('ZRANGE', ring, -1, -1, 'WITHSCORES')[2]
  for i, key in ipairs(keys) do
    local line = line_of(key, route)
    lines[i] = redis_call('ZPOPMIN', line, share)
    if #lines[i] < 2 * share or redis_call('EXISTS', line) == 0 then
      end_line(key, route)
    else
      turn = turn + 1
      turns[#turns + 1] = turn
      turns[#turns + 1] = key
    end
  end
  if #turns > 0 then
    redis_call('ZADD', ring, unpack(turns))
  end
  local ids = {}
  for place = 1, 2 * share, 2 do
    for _, popped in ipairs(lines) do
      ids[#ids + 1] = popped[place]
    end
  end
  return ids
end

-- Makes calls ours that were in a line, and adds those that are to be had to `ids`, and to `requests`.
local function claim(popped, us, ids, requests)
  local ours = {}
  for _, id in ipairs(popped) do
    local call = P .. 'call:' .. id
    local row = redis_call('HMGET', call, 'state', 'owner', 'request')
    -- What a failover has brought back may be somebody's, or over.
    if row[1] == 'accepted' and (not row[2] or row[2] == '') then
      redis_call('HSET', call, 'owner', us)
      ours[#ours + 1] = id
      ids[#ids + 1] = id
      requests[#requests + 1] = row[3]
    end
  end
  if #ours > 0 then
    redis_call('SADD', P .. 'owned:' .. us, unpack(ours))
  end
end

-- Takes the next calls of a route for `us`, whose keys take turns; answers their ids, and their requests.
local function claim_some(route, us, most)
  local ids, requests = {}, {}
  most = math.min(most, 1000)
  while #ids < most do
    local left = most - #ids
    local keys = redis_call('ZRANGE', P .. 'ring:' .. route, 0, left - 1)
    if #keys == 0 then
      break
    end
    local popped = pop_by_turns(route, keys, math.floor(left / #keys))
    claim(popped, us, ids, requests)
    if #popped > 0 then
      count_out(route, #popped)
    end
  end
  return ids, requests
end

-- what nodes have

-- Makes a call, or its callback, nobody's. A call that was not dialled waits again.
local function let_go(id, us)
  local row = redis_call('HMGET', P .. 'call:' .. id, 'state', 'owner', 'route', 'request')
  redis_call('SREM', P .. 'owned:' .. us, id)
  local due_at = redis_call('ZSCORE', P .. 'pending:' .. us, id)
  redis_call('ZREM', P .. 'pending:' .. us, id)
  if row[2] ~= us then
    return
  end
  redis_call('HDEL', P .. 'call:' .. id, 'owner')
  if row[1] == 'accepted' then
    enqueue_again(id, row[3], cjson.decode(row[4]))
  elseif row[1] == 'done' then
    redis_call('ZADD', P .. 'pending:', due_at or 0, id)
  else
    redis_call('SADD', P .. 'owned:', id)
  end
end

-- A question by which a node takes something has a number. What it was answered with is kept until the node has said
-- that it heard: `done`. Where it has not, because the answer was lost, the question is void: what it took is let go
-- of, and if it has not been heard yet (it waits in a socket, say), it takes nothing. Numbers with spaces between.
local function reckon(us, done, void)
  local grants = P .. 'grants:' .. us
  for question in done:gmatch('%S+') do
    redis_call('HDEL', grants, question)
  end
  for question in void:gmatch('%S+') do
    local ids = redis_call('HGET', grants, question)
    redis_call('HSET', grants, question, '')
    for id in (ids or ''):gmatch('[^\n]+') do
      let_go(id, us)
    end
  end
end

-- Whether the question was asked before: what it was answered with then has been let go of, or is about to be.
local function is_stale(us, question)
  return redis_call('HEXISTS', P .. 'grants:' .. us, question) == 1
end

local function grant(us, question, ids)
  if #ids > 0 then
    redis_call('HSET', P .. 'grants:' .. us, question, table.concat(ids, '\n'))
  end
end

