-- Puts a job at the end of the queue, or only looks whether that would do.
-- ARGV: id, idempotency key's hash or '', content's hash, files, bytes, max_waiting, max_bytes, top_k, '1' to try only,
-- names. Returns what became of it, and an id or a number.

local id, key, content, files, bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local max_waiting, max_bytes, top_k, is_trial = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]
if redis.call('EXISTS', prefix .. 'job:' .. id) == 1 then return {'submitted', id} end
if key ~= '' then
  local known = redis.call('GET', prefix .. 'key:' .. key)
  local other = known and redis.call('HGET', prefix .. 'job:' .. known, 'content')
  if other then return {other == content and 'replayed' or 'reused', known} end
end
local waiting = redis.call('ZCARD', prefix .. 'waiting')
if waiting >= max_waiting then return {'full', waiting} end
local held = tonumber(redis.call('GET', prefix .. 'bytes') or '0')
if held + bytes > max_bytes then return {'full_bytes', held} end
if is_trial == '1' then return {'room', id} end
local job, input = prefix .. 'job:' .. id, prefix .. 'input:' .. id
if redis.call('HLEN', input) < files then return {'lost', id} end
redis.call('PERSIST', input)
redis.call('INCRBY', prefix .. 'bytes', bytes)
redis.call('ZADD', prefix .. 'waiting', redis.call('INCR', prefix .. 'sequence'), id)
local first, last
for file = 0, files - 1 do
  last = redis.call('XADD', stream, '*', 'job', id, 'file', file, 'name', ARGV[10 + file])
  first = first or last
end
redis.call('HSET', job, 'state', QUEUED, 'files', files, 'done', 0, 'bad', 0, 'attempts', 0, 'created', now_ms(),
           'top_k', top_k, 'bytes', bytes, 'first', first, 'last', last, 'key', key, 'content', content)
if key ~= '' then redis.call('SET', prefix .. 'key:' .. key, id) end
return {'submitted', id}
