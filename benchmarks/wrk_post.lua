-- wrk -t1 -c32 -d5s --latency -s benchmarks/wrk_post.lua http://127.0.0.1:PORT/v1/chat/completions -- BODY.json
-- Every answer that is not a 200 is reported by wrk as "Non-2xx or 3xx responses".

function init(args)
   local file = assert(io.open(args[1], "rb"), "give the file of the request body after --")
   wrk.body = file:read("*a")
   file:close()
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
end
