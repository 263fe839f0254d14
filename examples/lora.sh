# LoRA on the bundled rows, evaluated on a tenth of them.
swift sft \
    --model demo \
    --dataset self-cognition \
    --model_name Robin --model_author 'the Swift team' \
    --split_dataset_ratio 0.1 --eval_metric acc \
    --train_type lora --lora_rank 16 --target_modules all-linear \
    --per_device_train_batch_size 4 --learning_rate 5e-4 --max_length 512 \
    --output_dir output/lora
