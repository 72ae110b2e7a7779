-- wrk's requests: POST the file named first; the rest of the arguments are headers, NAME=VALUE.
init = function(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*all")
   file:close()
   for index = 2, #arguments do
      local name, value = arguments[index]:match("^([^=]+)=(.*)$")
      wrk.headers[name] = value
   end
end

done = function(summary, latency, requests)
   io.write(string.format(
      '\nRESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "broken": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      summary.errors.status,
      summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
