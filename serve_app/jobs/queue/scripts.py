"""The steps of the job queue that must happen at once or not at all, as Lua that runs inside Redis. For `jobs`.

KEYS[1] is the prefix of all keys of one queue; what stands behind it:

stream       one entry for each picture not done, {job, file, name}, read by the consumer group `workers`
job:ID       hash: state, files, done, bad, attempts, times in ms, top_k, bytes, first and last entry, error
input:ID     hash: index → the picture's bytes; a field goes when its picture is done, the key when the job ends
results:ID   hash: index → the picture's result, JSON; written once
key:HASH     the id of the job with this idempotency key
waiting      sorted set of the queued jobs, in order; `running`: set of those that have begun
bytes        how many bytes the inputs of all jobs have, with FILE_BYTES for each
ended        stream of ids, newest 1,000, that waiters read; `dead`: the dead letters, newest 1,000
poison:ID:I  the picture of a dead letter, for as long as its job is kept

Time is that of Redis, so that machines need not agree on it. Each script that must work when Redis is full begins
with a command that frees: after one, Redis lets the rest of a script through (`maxmemory`, 6.2 and 7).
"""

from serve_app.classifier.job_settings import FILE_BYTES

_SHARED = (
    f"local file_bytes = {FILE_BYTES}"
    """
local prefix = KEYS[1]
local stream, group = prefix .. 'stream', 'workers'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_open(state)
  return state == 'queued' or state == 'running'
end

local function drop_entry(entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end

-- Who holds an entry, and how often it was handed out; nil when nobody does.
local function claim_of(entry)
  local found = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  if found then return found[2], found[4] end
end

local function end_job(id, state, code, detail, ttl_ms)
  local job = prefix .. 'job:' .. id
  redis.call('UNLINK', prefix .. 'input:' .. id)
  redis.call('ZREM', prefix .. 'waiting', id)
  redis.call('SREM', prefix .. 'running', id)
  local found = redis.call('HMGET', job, 'first', 'last', 'bytes', 'key')
  for _, entry in ipairs(redis.call('XRANGE', stream, found[1], found[2])) do drop_entry(entry[1]) end
  redis.call('DECRBY', prefix .. 'bytes', found[3])
  local now = now_ms()
  redis.call('HSET', job, 'state', state, 'ended', now, 'expires', now + ttl_ms, 'code', code, 'detail', detail,
             'bytes', 0)
  redis.call('PEXPIRE', job, ttl_ms)
  redis.call('PEXPIRE', prefix .. 'results:' .. id, ttl_ms)
  if found[4] ~= '' then redis.call('PEXPIRE', prefix .. 'key:' .. found[4], ttl_ms) end
  redis.call('XADD', prefix .. 'ended', 'MAXLEN', '~', 1000, '*', 'job', id)
end

-- Returns the job's new state when that was its last picture.
local function end_file(entry, id, file, result, code, detail, ttl_ms)
  local job, input = prefix .. 'job:' .. id, prefix .. 'input:' .. id
  local size = redis.call('HSTRLEN', input, file) + file_bytes
  redis.call('HDEL', input, file)
  drop_entry(entry)
  if redis.call('HSETNX', prefix .. 'results:' .. id, file, result) == 0 then return '' end
  redis.call('DECRBY', prefix .. 'bytes', size)
  redis.call('HINCRBY', job, 'bytes', 0 - size)
  local done = redis.call('HINCRBY', job, 'done', 1)
  local bad = redis.call('HINCRBY', job, 'bad', code == '' and 0 or 1)
  local files = tonumber(redis.call('HGET', job, 'files'))
  if done < files then return '' end
  if bad < files then
    end_job(id, 'done', '', '', ttl_ms)
    return 'done'
  end
  if files > 1 then
    code, detail = 'every_file_failed', 'none of the ' .. files .. ' files could be classified; `results` say why'
  end
  end_job(id, 'failed', code, detail, ttl_ms)
  return 'failed'
end
"""
)

SUBMIT = (
    _SHARED
    + """
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
redis.call('HSET', job, 'state', 'queued', 'files', files, 'done', 0, 'bad', 0, 'attempts', 0, 'created', now_ms(),
           'top_k', top_k, 'bytes', bytes, 'first', first, 'last', last, 'key', key, 'content', content)
if key ~= '' then redis.call('SET', prefix .. 'key:' .. key, id) end
return {'submitted', id}
"""
)
"""ARGV: id, idempotency key's hash or '', content's hash, files, bytes, max_waiting, max_bytes, top_k, '1' to try only,
names. Returns what became of it, and an id or a number."""

FIND = """
local job = ARGV[1]
return {redis.call('HGETALL', KEYS[1] .. 'job:' .. job), redis.call('ZRANK', KEYS[1] .. 'waiting', job),
        redis.call('HGETALL', KEYS[1] .. 'results:' .. job)}
"""
"""ARGV: id. Returns the job's hash, its position or nil, and the hash of its results. A script rather than a
transaction, whose commands Redis refuses when it is full."""

CANCEL = (
    _SHARED
    + """
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
local state = redis.call('HGET', prefix .. 'job:' .. id, 'state')
if not state then return '' end
if not is_open(state) then return state end
end_job(id, 'cancelled', '', '', ttl_ms)
return 'cancelled now'
"""
)
"""ARGV: id, ttl_ms. Returns '' for no such job, the state in which it had ended before, or 'cancelled now'."""

BEGIN = (
    _SHARED
    + """
local entry, worker, max_attempts, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local holder, tries = claim_of(entry)
if holder ~= worker then return {'gone'} end
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
if state == 'queued' then
  redis.call('SADD', prefix .. 'running', id)
  redis.call('HSET', job, 'state', 'running', 'started', now_ms())
end
if tries > max_attempts then
  local why = redis.call('HGET', job, 'reason:' .. file) or 'the worker ended while it had this picture'
  local detail = 'given up after ' .. max_attempts .. ' attempts; the last one: ' .. why
  local picture, poison = redis.call('HGET', input, file), prefix .. 'poison:' .. id .. ':' .. file
  if picture then redis.call('SET', poison, picture, 'PX', ttl_ms) end
  redis.call('XADD', prefix .. 'dead', 'MAXLEN', '~', 1000, '*', 'job', id, 'file', file, 'name', name,
             'attempts', max_attempts, 'reason', why, 'picture', poison)
  local result = cjson.encode({name = name, index = tonumber(file), error = {code = 'poison', detail = detail}})
  return {'dead', id, end_file(entry, id, file, result, 'poison', detail, ttl_ms)}
end
if tries > tonumber(redis.call('HGET', job, 'attempts')) then redis.call('HSET', job, 'attempts', tries) end
return {'work', id, file, name, redis.call('HGET', job, 'top_k'), redis.call('HGET', input, file) or ''}
"""
)
"""ARGV: entry, worker, max_attempts, ttl_ms. Returns {'gone'}, {'dead', id, the job's state if it ended by this}, or
{'work', id, index, name, top_k, picture}."""

FINISH = (
    _SHARED
    + """
local entry, id, file, result, code, detail, ttl_ms = unpack(ARGV)
redis.call('HDEL', prefix .. 'job:' .. id, 'reason:' .. file)
local state = redis.call('HGET', prefix .. 'job:' .. id, 'state')
if not state or not is_open(state) then return '' end
return end_file(entry, id, file, result, code, detail, tonumber(ttl_ms))
"""
)
"""ARGV: entry, id, index, result, its error's code and detail or '', ttl_ms. The first result of a picture counts, from
whomever. Returns the job's state if it ended by this, else ''."""

GIVE_BACK = (
    _SHARED
    + """
local entry, worker, id, file, reason = unpack(ARGV)
local holder, tries = claim_of(entry)
if holder ~= worker then return 0 end
if reason == '' then tries = tries - 1 end
redis.call('XCLAIM', stream, group, worker, 0, entry, 'IDLE', reason == '' and 86400000 or 0, 'RETRYCOUNT', tries,
           'JUSTID')
if reason ~= '' and redis.call('EXISTS', prefix .. 'job:' .. id) == 1 then
  redis.call('HSET', prefix .. 'job:' .. id, 'reason:' .. file, reason)
end
return 1
"""
)
"""ARGV: entry, worker, id, index, reason. Without a reason this was no attempt, and anyone may take it from now on;
with one, when it has lapsed: an engine that fails for a moment must not use up all attempts in it."""

RENEW = (
    _SHARED
    + """
local worker, lost = ARGV[1], {}
for i = 2, #ARGV do
  if claim_of(ARGV[i]) == worker then
    redis.call('XCLAIM', stream, group, worker, 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""
)
"""ARGV: worker, entries. Returns those that it holds no more."""

RECLAIM = (
    _SHARED
    + """
local worker, lease_ms, is_trial = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local found = redis.call('XPENDING', stream, group, 'IDLE', lease_ms, '-', '+', 1)[1]
if not found or is_trial == '1' then return found and found[1] or '' end
redis.call('XCLAIM', stream, group, worker, lease_ms, found[1])
return found[1]
"""
)
"""ARGV: worker, lease_ms, '1' to look only. Takes over one entry whose holder has been silent; returns it, or ''."""

SWEEP = (
    _SHARED
    + """
local max_wait_ms, ttl_ms, idle_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local expired = 0
for _ = 1, 100 do
  local id = redis.call('ZRANGE', prefix .. 'waiting', 0, 0)[1]
  if not id then break end
  local created = redis.call('HGET', prefix .. 'job:' .. id, 'created')
  if created and tonumber(created) + max_wait_ms > now_ms() then break end
  if created then
    end_job(id, 'failed', 'expired', 'no worker came to it within ' .. max_wait_ms / 1000 .. ' s', ttl_ms)
    expired = expired + 1
  else
    redis.call('ZREM', prefix .. 'waiting', id)
  end
end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  if consumer[4] == 0 and consumer[6] > idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer[2])
  end
end
return expired
"""
)
"""ARGV: max_wait_ms, ttl_ms, idle_ms. Fails jobs that waited too long, forgets workers without pictures that were
silent for idle_ms. Returns how many jobs failed."""

COUNTS = (
    _SHARED
    + """
local oldest = redis.call('ZRANGE', prefix .. 'waiting', 0, 0)[1]
local created = oldest and redis.call('HGET', prefix .. 'job:' .. oldest, 'created')
return {redis.call('ZCARD', prefix .. 'waiting'), redis.call('SCARD', prefix .. 'running'),
        tonumber(redis.call('GET', prefix .. 'bytes') or '0'), created and now_ms() - created or 0}
"""
)
"""Returns how many jobs wait, how many run, the bytes of their inputs, and the age of the oldest that waits, ms."""
