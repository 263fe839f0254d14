# All weights, samples packed into sequences of 512 tokens.
swift sft \
    --model demo \
    --dataset 'self-cognition#64' \
    --model_name Robin --model_author 'the Swift team' \
    --train_type full --packing true --packing_length 512 --max_length 512 \
    --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --num_train_epochs 1 \
    --output_dir output/full
