# A server for a training run: token ids with log-probabilities, then other weights, without a new start.
mkdir -p output/weights
swift rollout --model demo --port 8013 --allowed_update_path output/weights &
SERVER=$!
curl -s --retry 200 --retry-connrefused --retry-delay 1 http://127.0.0.1:8013/health
curl -sf http://127.0.0.1:8013/infer -H 'Content-Type: application/json' -d '{
    "infer_requests": [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}],
    "request_config": {"max_tokens": 8, "temperature": 1.0, "n": 2, "seed": 1}}'
curl -sf -X POST http://127.0.0.1:8013/reset_prefix_cache
kill $SERVER
wait $SERVER
