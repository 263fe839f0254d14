# A run that is broken off goes on where it was: same losses and weights as the unbroken one.
swift sft --model demo --dataset 'self-cognition#16' --model_name Robin --model_author 'the Swift team' \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --gradient_checkpointing false \
    --learning_rate 1e-4 --save_steps 1 --output_dir output/resume --max_steps 2
swift sft --config output/resume/v0-*/config.yaml --max_steps 3 --resume_from_checkpoint latest
