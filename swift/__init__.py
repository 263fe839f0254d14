"""Fine-tune, run and serve any language model."""

__version__ = "0.1.0"
