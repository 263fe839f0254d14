# Rows tokenised beforehand, on a machine without a GPU, and trained from there.
swift prepare --model demo --dataset 'self-cognition#16' --model_name Robin --model_author 'the Swift team' \
    --split_dataset_ratio 0.25 --output_dir prepared
swift sft --model demo --cached_dataset prepared --packing true --packing_length 256 --max_length 256 \
    --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --gradient_checkpointing false \
    --learning_rate 1e-4 --output_dir output/prepared
