-- Keeps an MP3's encodings.
-- KEYS: prefix
-- ARGV: name, seconds, then codec and octets of each
-- Answers nothing.
local name = P .. 'audio:' .. ARGV[1]
redis_call('HSET', name, unpack(ARGV, 3))
redis_call('EXPIRE', name, ARGV[2])
