-- Stores a picture's result: the first one counts, whichever worker brings it.
-- ARGV: entry, id, index, result, its error's code and detail or '', ttl_ms; of a dead letter also name, attempts, reason.
-- Returns the job's state if it ended by this, else ''.

local entry, id, file, result, code, detail, ttl_ms, name, attempts, reason = unpack(ARGV)
redis.call('HDEL', prefix .. 'job:' .. id, 'reason:' .. file)
local state = redis.call('HGET', prefix .. 'job:' .. id, 'state')
if not state or not is_open(state) then return '' end
if attempts and redis.call('HEXISTS', prefix .. 'results:' .. id, file) == 0 then
  local picture, poison = redis.call('HGET', prefix .. 'input:' .. id, file), prefix .. 'poison:' .. id .. ':' .. file
  if picture then redis.call('SET', poison, picture, 'PX', ttl_ms) end
  redis.call('XADD', prefix .. 'dead', 'MAXLEN', '~', 1000, '*', 'job', id, 'file', file, 'name', name,
             'attempts', attempts, 'reason', reason, 'picture', poison)
end
return end_file(entry, id, file, result, code, detail, tonumber(ttl_ms))
