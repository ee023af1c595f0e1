-- Stands before every script of this folder. The names in capitals, job states and errors among them, are constants
-- that scripts.py writes in front of it; KEYS[1] is the prefix of all keys of one queue (scripts.py lists them).

local prefix = KEYS[1]
local stream, group = prefix .. 'stream', GROUP

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_open(state)
  return state == QUEUED or state == RUNNING
end

local function drop_entry(entry)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
end

-- How long the holder of an entry seems to have been silent once the entry was given back: any worker may take it.
local GIVEN_BACK_MS = 86400000

-- Returns the consumer that holds an entry, the number of the attempt, and how long the holder has been silent; nil when
-- nobody does.
local function claim_of(entry)
  local found = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  if found then return found[2], found[4], found[3] end
end

-- Who takes over what a consumer of this kind held makes the same attempt: it never began, or it gave the entry back.
local function is_unbegun(consumer)
  return string.sub(consumer, -#UNBEGUN) == UNBEGUN
end

local function is_of(worker, consumer)
  return consumer == worker or consumer == worker .. UNBEGUN
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
  local size = redis.call('HSTRLEN', input, file) + FILE_BYTES
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
    end_job(id, DONE, '', '', ttl_ms)
    return DONE
  end
  if files > 1 then
    code, detail = EVERY_FILE_FAILED.code, string.format(EVERY_FILE_FAILED.detail, files)
  end
  end_job(id, FAILED, code, detail, ttl_ms)
  return FAILED
end
