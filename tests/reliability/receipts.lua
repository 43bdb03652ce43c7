-- The requests that wrk makes: `wrk … -s receipts.lua URL -- TOKENS THREADS`
-- TOKENS is a file with a token a line; each of the THREADS posts its share of them, each token once.

local all = {}

function setup(thread)
  thread:set("number", #all)
  table.insert(all, thread)
end

function init(arguments)
  tokens, threads, count, accepted = {}, tonumber(arguments[2]), 0, 0
  for line in io.lines(arguments[1]) do table.insert(tokens, line) end
end

function request()
  local token = tokens[count * threads + number + 1]
  count = count + 1
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" },
    '{"token": "' .. token .. '", "event": "shown"}')
end

function response(status)
  if status == 204 then accepted = accepted + 1 end
end

function done(summary, latency)
  local errors, accepted = summary.errors, 0
  for _, thread in ipairs(all) do accepted = accepted + thread:get("accepted") end
  io.write(string.format("\nRESULT %d %f %f %d\n", accepted, summary.requests / (summary.duration / 1e6),
    latency:percentile(99) / 1e6, errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
