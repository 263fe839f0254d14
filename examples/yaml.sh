# Options from a file, one of them over it.
swift sft --config examples/run.yaml --lora_rank 4
