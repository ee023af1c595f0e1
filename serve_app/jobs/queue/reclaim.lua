-- Takes over one entry whose holder has been silent.
-- ARGV: worker, lease_ms, '1' to look only. Returns the entry, or ''.

local worker, lease_ms, is_trial = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local found = redis.call('XPENDING', stream, group, 'IDLE', lease_ms, '-', '+', 1)[1]
if not found or is_trial == '1' then return found and found[1] or '' end
redis.call('XCLAIM', stream, group, worker, lease_ms, found[1])
return found[1]
