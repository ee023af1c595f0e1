-- Says of entries that they are being worked on.
-- ARGV: worker, entries. Returns those that it holds no more.

local worker, lost = ARGV[1], {}
for i = 2, #ARGV do
  local holder, _, idle_ms = claim_of(ARGV[i])
  if not is_of(worker, holder) then
    lost[#lost + 1] = ARGV[i]
  elseif idle_ms < GIVEN_BACK_MS then  -- the worker may say this while it gives the entry back
    redis.call('XCLAIM', stream, group, holder, 0, ARGV[i], 'JUSTID')
  end
end
return lost
