-- Run by HAProxy: ends the requests in a replica that has fallen silent, so that they are sent to another one.
-- Argument: the seconds that a request may take to connect to a replica.
--
-- HAProxy's own `on-marked-down shutdown-sessions` also ends requests that still wait to connect to a replica that is
-- gone, and those are lost: the client's connection closes without an answer. When connecting fails, HAProxy sends them
-- to another replica by itself. So only silence ends requests here, only when none can still be connecting, and only
-- while another replica can take them.

local CONNECT_S = tonumber((...))
local PAUSE_MS = 250
-- Of a health check without an answer. A frozen process still accepts connections; a machine that is gone does not.
local FROZEN = { L6TOUT = true, L7TOUT = true }
local GONE = { L4TOUT = true }

local function is_silent(stats)
  -- "* " stands before the last result while the next check runs.
  local result = (stats.check_status or ""):gsub("^%* ", "")
  return FROZEN[result] or (GONE[result] and stats.lastchg > CONNECT_S)
end

local function look_at(backend)
  local silent, has_another = {}, false
  for _, server in pairs(backend.servers) do
    local stats = server:get_stats()
    if stats.status:sub(1, 2) == "UP" then
      has_another = has_another or stats.bck == 0
    elseif is_silent(stats) then
      silent[#silent + 1] = server
    end
  end
  if has_another then
    for _, server in ipairs(silent) do
      server:shut_sess()
    end
  end
end

core.register_task(function()
  while true do
    for _, backend in pairs(core.backends) do
      look_at(backend)
    end
    core.msleep(PAUSE_MS)
  end
end)
