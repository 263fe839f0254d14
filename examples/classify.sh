# A classifier of texts: the classes are found in the rows, and its figures are those of a fifth of them.
for word in fine lovely great; do printf '{"text": "A %s film.", "label": "good"}\n' "$word"; done > films.jsonl
for word in dull bad awful; do printf '{"text": "A %s film.", "label": "poor"}\n' "$word"; done >> films.jsonl
swift sft --model demo --task_type seq_cls --dataset films.jsonl films.jsonl --split_dataset_ratio 0.2 \
    --train_type lora --learning_rate 1e-3 --per_device_train_batch_size 4 --num_train_epochs 4 \
    --output_dir output/classify
echo 'A wonderful film.' | swift infer --adapters output/classify/v0-*/checkpoint-*
