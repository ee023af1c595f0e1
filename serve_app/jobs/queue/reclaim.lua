-- Takes over one entry whose holder has been silent; a further attempt if the holder began one.
-- ARGV: worker, lease_ms, '1' to look only. Returns the entry, or ''.

local worker, lease_ms, is_trial = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local found = redis.call('XPENDING', stream, group, 'IDLE', lease_ms, '-', '+', 1)[1]
if not found or is_trial == '1' then return found and found[1] or '' end
local command = {'XCLAIM', stream, group, worker .. UNBEGUN, lease_ms, found[1]}
if is_unbegun(found[2]) then command[#command + 1] = 'JUSTID' end  -- which leaves the number of attempts
redis.call(unpack(command))
return found[1]
