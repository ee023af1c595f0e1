-- Lets wrk print exact numbers as one line of JSON, pause between requests, and post pictures.
-- Arguments after `--`: pause in ms; and where pictures are posted, a folder with 0.jpg, 1.jpg … and how many there are.
-- Before pictures the pause is the mean of an exponential distribution: their connections, which begin together, would
-- otherwise stay together.
-- wrk's own text rounds, and has no p95. Latencies are in µs, corrected by wrk for requests that a slow answer held up.

function init(arguments)
  local pause_ms = tonumber(arguments[1] or "0")
  if pause_ms > 0 then
    delay = function() return pause_ms end
  end
  if arguments[2] then
    post_pictures(arguments[2], tonumber(arguments[3]))
    if pause_ms > 0 then
      delay = function() return math.floor(-pause_ms * math.log(1 - math.random()) + 0.5) end
    end
  end
end

function post_pictures(folder, count)
  local requests, at = {}, 0
  for number = 0, count - 1 do
    local file = io.open(string.format("%s/%d.jpg", folder, number), "rb")
    requests[number] = wrk.format("POST", nil, {["Content-Type"] = "image/jpeg"}, file:read("*a"))
    file:close()
  end
  request = function()
    at = (at + 1) % count
    return requests[at]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"duration_us": %d, "requests": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d, "max_us": %d, '
      .. '"bad_status": %d, "broken": %d}\n',
    summary.duration, summary.requests,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
