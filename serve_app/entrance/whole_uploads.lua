-- Run by HAProxy: holds a request back until all of its upload is here, so that it can be sent to another replica.
-- Arguments: the size of HAProxy's buffer in bytes, and the longest time that a request is held back in seconds.
--
-- Most clients send headers and upload separately. HAProxy would connect as soon as it has the headers, and can then not
-- send the request again if the replica dies. An upload that is slow or larger than the buffer is not held for long: the
-- replica has time limits of its own for it.

local buffer_bytes, longest_s = ...
local MOST_BYTES = tonumber(buffer_bytes) - 32768 -- room for headers, and for what HAProxy keeps free
local LONGEST_MS = 1000 * tonumber(longest_s)

local function is_whole(txn)
  return txn.f:req_body_len() >= txn.f:req_body_size()
end

core.register_action("hold_until_whole", { "http-req" }, function(txn)
  if txn.f:req_body_size() > MOST_BYTES then
    return
  end
  local waited_ms = 0
  while not is_whole(txn) and waited_ms < LONGEST_MS do
    local pause_ms = math.max(1, waited_ms // 8)
    core.msleep(pause_ms)
    waited_ms = waited_ms + pause_ms
  end
end)
