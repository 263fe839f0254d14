"""LoRA+: the matrix B, which starts from zero, learns faster than A."""

from __future__ import annotations

from typing import Any


def loraplus(model: Any, args: Any, ratio: float) -> Any:
    """The optimizer of `--optim` with the learning rate of B (and of magnitudes and biases) times `ratio`.

    Hayou et al., 2024, "LoRA+: Efficient Low Rank Adaptation of Large Models", section 4, by PEFT.

    Args:
        model: a PEFT model with LoRA.
        args: transformers' TrainingArguments.
        ratio: learning rate of B over that of A.
    """
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    made, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    rate = settings.pop("lr")
    optimizer = create_loraplus_optimizer(
        model, made, lr=rate, loraplus_lr_ratio=ratio, loraplus_weight_decay=args.weight_decay, **settings
    )
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer
