# Answers to rows, written as JSONL; a run that was broken off goes on where it was.
swift infer --model demo --val_dataset 'self-cognition#8' --model_name Robin --model_author 'the Swift team' \
    --max_new_tokens 24 --temperature 0 --result_path output/answers.jsonl
