# Two processes on one machine; the loss is that of one process with twice the batch.
NPROC_PER_NODE=2 swift sft \
    --model demo \
    --dataset 'self-cognition#32' \
    --model_name Robin --model_author 'the Swift team' \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --max_length 512 --num_train_epochs 1 \
    --output_dir output/two
