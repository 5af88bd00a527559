-- Requests a second of one worker, for wrk:
--   PROXY_SANDBOX__PENDING_S=0 PROXY_SANDBOX__RUNNING_S=0 narrative-proxy sandbox --port 8091
--   NARRATIVE_ENVIRONMENT=http://127.0.0.1:8091 NARRATIVE_API_KEY=any NARRATIVE_DATA_PLANE_ID=5a4db0c5-0000-4000-8000-00005a4db0c5 \
--     PROXY_SERVER__LOG_LEVEL=warning narrative-proxy serve --port 8085
--   wrk -t1 -c32 -d10s --latency -s benchmarks/chat.lua http://127.0.0.1:8085/v1/chat/completions
wrk.method = "POST"
wrk.body = '{"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}'
wrk.headers["Content-Type"] = "application/json"
