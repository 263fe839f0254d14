# Only the last two layers and the final norm.
swift sft \
    --model demo \
    --dataset 'self-cognition#32' \
    --model_name Robin --model_author 'the Swift team' \
    --train_type freeze --trainable_parameters model.layers.28 model.layers.29 model.norm \
    --per_device_train_batch_size 4 --learning_rate 1e-4 --max_length 512 --num_train_epochs 1 \
    --output_dir output/freeze
