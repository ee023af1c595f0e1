-- Says what there is to do for an entry that this worker holds, and that the attempt begins. Again, it says the same.
-- ARGV: entry, worker, max_attempts. Returns {'gone'}, {'work', id, index, name, top_k, picture}, or
-- {'dead', id, index, name, the reason of the last failure or ''} after max_attempts; then `finish` is to be called.

local entry, worker, max_attempts = ARGV[1], ARGV[2], tonumber(ARGV[3])
local holder, tries = claim_of(entry)
if not is_of(worker, holder) then return {'gone'} end
local fields = redis.call('XRANGE', stream, entry, entry)[1]
if not fields then
  redis.call('XACK', stream, group, entry)
  return {'gone'}
end
local id, file, name = fields[2][2], fields[2][4], fields[2][6]
local job, input = prefix .. 'job:' .. id, prefix .. 'input:' .. id
local state = redis.call('HGET', job, 'state')
if not state or not is_open(state) then
  drop_entry(entry)
  return {'gone'}
end
redis.call('ZREM', prefix .. 'waiting', id)
if state == QUEUED then
  redis.call('SADD', prefix .. 'running', id)
  redis.call('HSET', job, 'state', RUNNING, 'started', now_ms())
end
if tries > max_attempts then
  return {'dead', id, file, name, redis.call('HGET', job, 'reason:' .. file) or ''}
end
redis.call('XCLAIM', stream, group, worker, 0, entry, 'JUSTID')
if tries > tonumber(redis.call('HGET', job, 'attempts')) then redis.call('HSET', job, 'attempts', tries) end
return {'work', id, file, name, redis.call('HGET', job, 'top_k'), redis.call('HGET', input, file) or ''}
