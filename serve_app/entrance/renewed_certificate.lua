-- Run by HAProxy: takes a new certificate and key when the two files change. No connection ends by it.
-- Arguments: the file of the certificate, that of its key, and the file with both by whose name HAProxy knows them.

local CERT, KEY, BOTH = ...
local PAUSE_MS = 2000

local function read(path)
  local file = io.open(path, "r")
  if file == nil then
    return nil
  end
  local text = file:read("*a")
  file:close()
  return text
end

local function read_both()
  local cert, key = read(CERT), read(KEY)
  return cert and key and cert .. "\n" .. key
end

local seen = read(BOTH)

core.register_task(function()
  while true do
    core.msleep(PAUSE_MS)
    local now = read_both()
    if now and now ~= seen then
      seen = now
      -- A certificate whose key is not there yet is refused, and the one of before stays.
      -- A file with both is the field without a name: HAProxy names its fields after the endings of files.
      local is_taken, fault = pcall(CertCache.set, { filename = BOTH, [""] = now })
      if is_taken then
        core.Info("certificate renewed from " .. CERT)
      else
        core.Warning("certificate not renewed from " .. CERT .. ": " .. tostring(fault))
      end
    end
  end
end)
