-- Accepts a call: holds a credit, marks the number and keeps the call.
-- KEYS: prefix
-- ARGV: call id, key id, number as one integer, accepted_at, request (JSON), route, the key's version as this node
--   knows it (or nothing), name of the audio (nothing: it is not shared), seconds to keep the audio for, the token by
--   which a repeated request is known (nothing: it is not), seconds to keep that for, and by Redis's clock, until when
--   the asker waits (nothing: that is not known), owner: the call is its, until it has heard the answer (see offer.lua)
-- Answers the code; or what is in the way, nothing being changed: "stale" and the key's row, "audio" where that is not
-- here, "withdrawn", "fenced".
local id, key, number, at, request, route, version, audio, keep, token, remember, wanted, us = unpack(ARGV)
local call = P .. 'call:' .. id
if redis_call('EXISTS', call) == 1 then
  return 0
end
if redis_call('ZSCORE', P .. 'withdrawn', id) then
  return {'withdrawn'}
end
if wanted ~= '' then
  -- One that waited in a socket while Redis stood still: its asker was told that it failed.
  local time = redis_call('TIME')
  if time[1] + time[2] / 1e6 > tonumber(wanted) then
    return {'withdrawn'}
  end
end
if not is_live(us) then
  return {'fenced'}
end
local now = tonumber(at)
local code, credits, held, known = verdict(key, number, now)
if code ~= 0 then
  return code
end
if token ~= '' and redis_call('EXISTS', P .. 'again:' .. token) == 1 then
  return 6
end
if version ~= '' and version ~= known then
  return {'stale', key_row(key)}
end
if audio ~= '' and redis_call('EXPIRE', P .. 'audio:' .. audio, keep) == 0 then
  return {'audio'}
end
redis_call('HSET', P .. 'key:' .. key, 'credits', credits - 1, 'held', held + 1)
redis_call('HSET', call, 'request', request, 'state', 'accepted', 'route', route, 'owner', us)
redis_call('SADD', P .. 'fresh:' .. us, id)
redis_call('HINCRBY', P .. 'counts', 'accepted', 1)
enter(key, -1, 'held', id, at, credits - 1)
index(id, key)
if token ~= '' then
  redis_call('SET', P .. 'again:' .. token, id, 'EX', remember)
end
-- Two marks leave for each that comes, at most: the work is spread, and none stays for ever. Redis's own clock, by
-- which they could expire, may jump.
local floods = P .. 'floods'
redis_call('ZADD', floods, at, number)
local old = redis_call('ZRANGE', floods, '-inf', '(' .. string.format('%.17g', now - 60), 'BYSCORE', 'LIMIT', 0, 2)
if #old > 0 then
  redis_call('ZREM', floods, unpack(old))
end
return 0
