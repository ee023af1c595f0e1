-- Ends a job that has not ended.
-- ARGV: id, ttl_ms. Returns '' for no such job, the state in which it had ended before, or 'cancelled now'.

local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
local state = redis.call('HGET', prefix .. 'job:' .. id, 'state')
if not state then return '' end
if not is_open(state) then return state end
end_job(id, CANCELLED, '', '', ttl_ms)
return 'cancelled now'
