-- Fails jobs that waited too long, and forgets workers without pictures that were silent for idle_ms.
-- ARGV: max_wait_ms, ttl_ms, idle_ms. Returns how many jobs failed.

local max_wait_ms, ttl_ms, idle_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local expired = 0
for _ = 1, 100 do
  local id = redis.call('ZRANGE', prefix .. 'waiting', 0, 0)[1]
  if not id then break end
  local created = redis.call('HGET', prefix .. 'job:' .. id, 'created')
  if created and tonumber(created) + max_wait_ms > now_ms() then break end
  if created then
    end_job(id, FAILED, EXPIRED.code, string.format(EXPIRED.detail, max_wait_ms / 1000), ttl_ms)
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
