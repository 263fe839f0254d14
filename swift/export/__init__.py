"""`swift merge-lora`: adapters merged into a copy of their base model."""
