-- Tells the schema of what is kept here; where nothing says so, it is ours from now on.
-- KEYS: prefix
-- ARGV: our schema
-- Answers the schema; -1 where everything is on its way here from another store (see `redis_copy`).
if redis_call('EXISTS', P .. 'loading') == 1 then
  return -1
end
redis_call('SET', P .. 'schema', ARGV[1], 'NX')
return tonumber(redis_call('GET', P .. 'schema'))
