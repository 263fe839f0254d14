# Train an adapter, serve it under a name beside its base model, and ask both.
swift sft --model demo --dataset self-cognition#16 --model_name Robin --model_author 'the Swift team' \
    --output_dir output/deploy --add_version false
swift deploy --model demo --adapters robin=$(ls -d output/deploy/checkpoint-* | tail -1) --port 8012 &
SERVER=$!
curl -s --retry 200 --retry-connrefused --retry-delay 1 http://127.0.0.1:8012/health
for MODEL in demo robin; do
    curl -sf http://127.0.0.1:8012/v1/chat/completions -H 'Content-Type: application/json' \
        -d "{\"model\": \"$MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"Who are you?\"}], \"max_tokens\": 16}"
done
kill $SERVER
wait $SERVER
