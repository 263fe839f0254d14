# Embeddings: a question and the passage that answers it are brought together, others are pushed away.
printf '{"query": "capital of %s", "positive": "%s is its capital", "negative": ["%s is a town"]}\n' \
    France Paris Lyon Italy Rome Milan Spain Madrid Seville Norway Oslo Bergen > towns.jsonl
INFONCE_TEMPERATURE=0.05 swift sft --model demo --task_type embedding --loss_type infonce --dataset towns.jsonl \
    --mrl_dims '{"576": 1, "64": 0.5}' --train_type lora --learning_rate 1e-4 --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 2 --num_train_epochs 4 --output_dir output/embed
echo 'capital of Italy' | swift infer --adapters output/embed/v0-*/checkpoint-*
