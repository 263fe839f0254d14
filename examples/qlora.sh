# QLoRA: a base of 4 bits; merged into the base as it was, and how far that lies from the quantised one is printed.
swift sft --model demo --dataset 'self-cognition#16' --model_name Robin --model_author 'the Swift team' \
    --quant_method bnb --quant_bits 4 --bnb_4bit_quant_type nf4 --target_modules all-linear --lora_rank 8 \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --gradient_checkpointing false \
    --learning_rate 1e-3 --max_length 256 --output_dir output/qlora
swift merge-lora --adapters output/qlora/v0-*/checkpoint-* --output_dir output/qlora-merged
