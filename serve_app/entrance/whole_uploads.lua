-- Run by HAProxy: holds a request back until all of its upload is here, so that it can be sent to another replica.
-- Arguments: the size of HAProxy's buffer in bytes, and the longest time that a request is held back in seconds.
--
-- Most clients send headers and upload separately. HAProxy would connect as soon as it has the headers, and can then not
-- send the request again if the replica dies. An upload that is slow or larger than the buffer is not held for long: the
-- replica has time limits of its own for it.

local buffer_bytes, longest_s = ...
local MOST_BYTES = tonumber(buffer_bytes) - 32768 -- room for headers, and for what HAProxy keeps free
local LONGEST_US = 1000000 * tonumber(longest_s)
local UNTIL = "txn.held_until_us"

local function now_us()
  local now = core.now()
  return now.sec * 1000000 + now.usec
end

-- HAProxy calls it again when more has come or `wake_time` has passed, for as long as it returns YIELD.
core.register_action("hold_until_whole", { "http-req" }, function(txn)
  local size = txn.f:req_body_size()
  if size > MOST_BYTES or txn.f:req_body_len() >= size then
    return act.CONTINUE
  end
  local now, held_until = now_us(), txn:get_var(UNTIL)
  if not held_until then
    held_until = now + LONGEST_US
    txn:set_var(UNTIL, held_until)
  end
  if now >= held_until then
    return act.CONTINUE
  end
  act.wake_time(math.max(1, (held_until - now) // 1000))
  return act.YIELD
end)
