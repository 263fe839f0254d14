"""Optimizers that neither torch nor transformers brings: one file for each, one update rule for each."""
