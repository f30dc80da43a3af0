-- Asks whether a call would be accepted.
-- KEYS: prefix
-- ARGV: key id, number as one integer, now
-- Answers the code.
return (verdict(ARGV[1], ARGV[2], ARGV[3]))
