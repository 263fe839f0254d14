# Pre-training on texts: each is trained whole, long ones are cut into several samples without losing a token.
printf '{"text": "The %s is a bird. It lives by the sea and eats fish."}\n' gull tern puffin auk skua gannet > birds.jsonl
swift pt --model demo --dataset birds.jsonl --train_type lora --packing true --max_length 256 \
    --truncation_strategy split --learning_rate 1e-4 --output_dir output/pretrain
