"""`Trainer` and `Seq2SeqTrainer`, the names under which Python users train a model that they prepared themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.data import Collator, EncodedDataset, Layout, StepPlan, check_packing, probe_packing
from swift.data.steps import data_seed
from swift.models.segments import attend_by_segment, takes_borders
from swift.objectives import objectives
from swift.tasks import metrics
from swift.tasks.tokens import TokenComputation
from swift.train import distributed
from swift.train.hooks import LastStep, LogFile
from swift.train.keep import prepared_model_keeper
from swift.train.trainer import SwiftTrainer

if TYPE_CHECKING:
    from swift.templates import Template


class Seq2SeqTrainer(SwiftTrainer):
    """Train a prepared model on tokenised samples.

    Args:
        model: a model, with a tuner attached or not.
        args: transformers' TrainingArguments.
        train_dataset: samples, as `swift.data.encode_rows` gives them.
        eval_dataset: samples for evaluation.
        template: the template that the samples were made with; checkpoints record it.
        loss_type: the objective.
        eval_metric: a metric of evaluation besides the loss.
        padding_free: lay the samples of a batch end to end instead of padding them.
        callbacks: transformers' callbacks.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        train_dataset: EncodedDataset,
        template: Template,
        eval_dataset: EncodedDataset | None = None,
        loss_type: str = "cross_entropy",
        eval_metric: str | None = None,
        padding_free: bool = False,
        callbacks: Sequence[Any] = (),
    ) -> None:
        tokenizer = template.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)

        def collator(dataset: EncodedDataset) -> Collator:
            layout = Layout(pad_token_id=pad, padding_free=padding_free, borders=takes_borders(model))
            return Collator(dataset, None, layout)

        plan = StepPlan(
            len(train_dataset),
            batch_size=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            world_size=distributed.world_size(),
            seed=data_seed(args),
            shuffle=True,
            drop_last=args.dataloader_drop_last,
        )
        args.remove_unused_columns = False
        if padding_free:
            check_packing(model.config)
            attend_by_segment(model)
            probe_packing(model, borders=takes_borders(model), use_cache=False)
        super().__init__(
            model,
            args,
            plan=plan,
            collator=collator(train_dataset),
            eval_collator=collator(eval_dataset) if eval_dataset is not None else None,
            eval_units=len(eval_dataset) if eval_dataset is not None else 0,
            computation=TokenComputation(
                model,
                objectives.get(loss_type),
                metrics.get(eval_metric) if eval_metric else None,
                smoothing=args.label_smoothing_factor,
            ),
            keep_model=prepared_model_keeper(template),
            make_optimizer=None,
            symlinks=False,
            save_total_limit=args.save_total_limit,
            weights_loaded=False,
            callbacks=[LogFile(Path(args.output_dir) / "logging.jsonl"), *callbacks, LastStep()],
        )


Trainer = Seq2SeqTrainer
