-- Finds a key by its digest.
-- KEYS: prefix
-- ARGV: digest
-- Answers a row as `key_row` does, or nothing.
local id = redis_call('HGET', P .. 'digests', ARGV[1])
return id and key_row(id)
