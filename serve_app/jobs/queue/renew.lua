-- Says of entries that they are being worked on.
-- ARGV: worker, entries. Returns those that it holds no more.

local worker, lost = ARGV[1], {}
for i = 2, #ARGV do
  if claim_of(ARGV[i]) == worker then
    redis.call('XCLAIM', stream, group, worker, 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
