-- Returns how many jobs wait, how many run, the bytes of their inputs, and the age of the oldest that waits, ms.

local oldest = redis.call('ZRANGE', prefix .. 'waiting', 0, 0)[1]
local created = oldest and redis.call('HGET', prefix .. 'job:' .. oldest, 'created')
return {redis.call('ZCARD', prefix .. 'waiting'), redis.call('SCARD', prefix .. 'running'),
        tonumber(redis.call('GET', prefix .. 'bytes') or '0'), created and now_ms() - created or 0}
