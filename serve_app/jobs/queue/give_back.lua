-- Lets other workers have an entry.
-- ARGV: entry, worker, id, index, reason. Without a reason this was no attempt, and anyone may take it from now on;
-- with one, when it has lapsed: an engine that fails for a moment must not use up all attempts in it.

local entry, worker, id, file, reason = unpack(ARGV)
local holder, tries = claim_of(entry)
if holder ~= worker then return 0 end
if reason == '' then tries = tries - 1 end
redis.call('XCLAIM', stream, group, worker, 0, entry, 'IDLE', reason == '' and GIVEN_BACK_MS or 0, 'RETRYCOUNT', tries,
           'JUSTID')
if reason ~= '' and redis.call('EXISTS', prefix .. 'job:' .. id) == 1 then
  redis.call('HSET', prefix .. 'job:' .. id, 'reason:' .. file, reason)
end
return 1
