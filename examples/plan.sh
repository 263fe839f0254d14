# Settings that fit a machine, from a model's config alone.
swift plan --model demo --gpus 8x80
