-- Lets other workers have an entry.
-- ARGV: entry, worker, id, index, reason. Without a reason this was no attempt, and anyone may take it from now on;
-- with one, when it has lapsed: an engine that fails for a moment must not use up all attempts in it.

local entry, worker, id, file, reason = unpack(ARGV)
if not is_of(worker, claim_of(entry)) then return 0 end
if reason == '' then
  redis.call('XCLAIM', stream, group, worker .. UNBEGUN, 0, entry, 'IDLE', GIVEN_BACK_MS, 'JUSTID')
  return 1
end
redis.call('XCLAIM', stream, group, worker, 0, entry, 'IDLE', 0, 'JUSTID')
if redis.call('EXISTS', prefix .. 'job:' .. id) == 1 then
  redis.call('HSET', prefix .. 'job:' .. id, 'reason:' .. file, reason)
end
return 1
