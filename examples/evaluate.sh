# Evaluation by answers: ROUGE, BLEU and exact matches; the best checkpoint is that of the best rouge-l.
swift sft --model demo --dataset 'self-cognition#16' --val_dataset 'self-cognition#2' \
    --model_name Robin --model_author 'the Swift team' --predict_with_generate true --max_new_tokens 12 \
    --eval_steps 2 --save_steps 2 --early_stop_interval 3 --create_checkpoint_symlink true \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --gradient_checkpointing false \
    --learning_rate 1e-3 --output_dir output/evaluate
