-- Reads a job. A script rather than a transaction, whose commands Redis refuses when it is full.
-- ARGV: id. Returns the job's hash, its position or nil, and the hash of its results.

local job = ARGV[1]
return {redis.call('HGETALL', prefix .. 'job:' .. job), redis.call('ZRANK', prefix .. 'waiting', job),
        redis.call('HGETALL', prefix .. 'results:' .. job)}
