# Rows read and tokenised while the run goes on, packed within a window; a stream has no end, so the steps have one.
for number in $(seq 40); do
    printf '{"query": "What is %s plus one?", "response": "It is %s."}\n' "$number" "$((number + 1))"
done > numbers.jsonl
swift sft --model demo --dataset numbers.jsonl --streaming true --shuffle_buffer_size 16 \
    --packing true --packing_length 256 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 \
    --gradient_checkpointing false --learning_rate 1e-4 --output_dir output/stream --max_steps 2
