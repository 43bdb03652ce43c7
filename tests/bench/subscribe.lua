-- The requests that wrk makes: `wrk … -s subscribe.lua URL -- CLIENTS RUN`
-- CLIENTS is a file of lines "cookie TAB body". In the RUN "repeats" they are sent as they are. In other
-- runs each request has a new endpoint, with RUN in it so that endpoints of different runs differ. In a RUN
-- whose name begins with "mixed", 90 % are repeats, 8 % are new and 2 % are invalid, and only 5xx are errors.

local threads = 0

local all = {}

function setup(thread)
  table.insert(all, thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  clients, run, count, failures = {}, arguments[2], 0, 0
  mixed = run:match("^mixed")
  if mixed then
    response = function(status) if status >= 500 then failures = failures + 1 end end
  end
  for line in io.lines(arguments[1]) do
    local cookie, body = line:match("^(.-)\t(.*)$")
    local headers = { ["Content-Type"] = "application/json", ["Cookie"] = cookie, ["Sec-Fetch-Site"] = "same-origin" }
    table.insert(clients, { headers = headers, body = body, request = wrk.format("POST", nil, headers, body) })
  end
end

function request()
  count = count + 1
  local client = clients[(count * 2 + number) % #clients + 1]
  if run == "repeats" or mixed and count % 100 < 90 then return client.request end
  if mixed and count % 100 >= 98 then return wrk.format("POST", nil, client.headers, "{}") end
  local endpoint = "/new/" .. run .. "/" .. number .. "/" .. count
  return wrk.format("POST", nil, client.headers, (client.body:gsub("/stored/%d+", endpoint)))
end

function done(summary, latency)
  local seconds = summary.duration / 1e6
  local errors = summary.errors
  if all[1]:get("mixed") then
    errors.status = 0
    for _, thread in ipairs(all) do errors.status = errors.status + thread:get("failures") end
  end
  io.write(string.format("\nRESULT %f %f %f %d\n", summary.requests / seconds, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
