# A reranker: listwise, by the language model's yes and no; MRR and nDCG of a fourth of the questions.
printf '{"query": "capital of %s", "positive": ["%s"], "negative": ["%s", "%s"]}\n' \
    France Paris Lyon Rome Italy Rome Milan Paris Spain Madrid Lisbon Rome Norway Oslo Bergen Paris > towns.jsonl
swift sft --model demo --task_type generative_reranker --loss_type listwise_generative_reranker \
    --dataset towns.jsonl --split_dataset_ratio 0.25 --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 1 --gradient_checkpointing false --learning_rate 1e-4 --output_dir output/rerank
