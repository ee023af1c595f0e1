-- Lets wrk print exact numbers as one line of JSON, and pause between requests. Arguments after `--`: pause in ms.
-- wrk's own text rounds, and has no p95. Latencies are in µs, corrected by wrk for requests that a slow answer held up.

function init(arguments)
  local pause_ms = tonumber(arguments[1] or "0")
  if pause_ms > 0 then
    delay = function() return pause_ms end
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
