"""The trainer: transformers' loop, with our batches, our loss and our checkpoints."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils.memory import clear_device_cache
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import ExportableState

from swift.atomic import atomic_folder, remove_folder
from swift.compat import restore_indexed_cpu
from swift.data import Collator, EncodedDataset, RankBatches, StepPlan, UnitIndex
from swift.data.live import LazyCollator, StreamCollator
from swift.errors import SwiftError
from swift.tasks.base import Computation
from swift.train import distributed
from swift.train.average import WeightAverage
from swift.train.folders import STATE, link_checkpoint, step_of
from swift.train.hooks import AfterStep
from swift.train.keep import KeepModel, load_whole
from swift.train.loader import EpochLoader, start_worker
from swift.train.meter import ChannelMeter, Meter
from swift.train.neftune import Neftune
from swift.train.offload import ActivationOffload
from swift.train.predict import Measure
from swift.train.told import Told
from swift.tuners.adalora import RankSchedule


class SwiftTrainer(Trainer):
    """`transformers.Trainer` over a plan of global batches.

    The loss of a step is the objective's sum over all micro-batches and processes, divided by the number of its units
    (trained tokens, texts) in them, so it does not depend on how the step was split.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        plan: StepPlan,
        collator: Collator | LazyCollator | StreamCollator,
        eval_collator: Collator | None,
        eval_units: int,
        computation: Computation,
        keep_model: KeepModel,
        make_optimizer: Callable[[Any, Any], Any] | None,
        symlinks: bool,
        save_total_limit: int | None,
        weights_loaded: bool,
        callbacks: list[Any],
        channel_meter: ChannelMeter | None = None,
        schedule: RankSchedule | None = None,
        told: Told | None = None,
        measures: Sequence[Measure] = (),
        offload: bool = False,
        average: WeightAverage | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=UnitIndex(plan.units),
            eval_dataset=UnitIndex(eval_units) if eval_units else None,
        )
        restore_indexed_cpu()
        first = [AfterStep(part.after_step) for part in (schedule, average) if part is not None]
        for callback in [*first, *([told] if told else []), *callbacks]:
            self.add_callback(callback)
        self.told, self.measures = told, measures
        self.offload = ActivationOffload(model) if offload else None
        self.schedule, self.average = schedule, average
        self.plan, self.collator, self.eval_collator, self.eval_units = plan, collator, eval_collator, eval_units
        self.computation, self.keep_model = computation, keep_model
        self.make_optimizer, self.symlinks = make_optimizer, symlinks
        self.save_total_limit, self.weights_loaded = save_total_limit, weights_loaded
        self.meter, self.channel_meter, self.unwrapped = Meter(), channel_meter, False
        self.loader: EpochLoader | None = None
        self.ahead: list[Any] | None = None
        self.flops_per_token: int | None = None
        alpha, self.neftune_noise_alpha = args.neftune_noise_alpha, None
        self.neftune = Neftune(model, alpha) if alpha else None
        # The division by the tokens of the whole step is ours; the loop must not divide again.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader:
        """This process's micro-batches, in the plan's order."""
        self.loader = self._loader(self.plan, self.collator, self.args.process_index)
        return self.loader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; however that ends, the loader's workers end with it."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.loader is not None:
                self.loader.close()

    def _loader(self, plan: StepPlan, collator: Any, rank: int) -> EpochLoader:
        return EpochLoader(
            cast(Any, UnitIndex(plan.units)),
            batch_sampler=RankBatches(plan, rank),
            collate_fn=collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=start_worker,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers and self.args.dataloader_num_workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=getattr(self.args, "dataloader_multiprocessing_context", None),
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step; what they carry besides tensors is taken before the step begins.

        Raises:
            Halt: a row cannot be used; the steps before are whole.
        """
        if self.args.world_size == 1:
            # The number of tokens stays where it is counted: a GPU need not be waited for.
            device = "cpu"
        if self.told is None:
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        else:
            kept = list(self.told.strip(islice(epoch_iterator, num_batches)))
            self.told.take()
            batches, count = super().get_batch_samples(iter(kept), num_batches, device)
        self.ahead = batches
        return batches, count

    def _outputs_beforehand(self) -> Callable[[dict[str, Any]], Any]:
        """A function that gives the outputs of a micro-batch as its step will, dropout and all, without gradients."""
        states = _random_states()

        def outputs(batch: dict[str, Any]) -> Any:
            nonlocal states
            self.model_wrapped.train()
            with torch.random.fork_rng(), torch.no_grad(), self.accelerator.autocast():
                _set_random_states(states)
                found = self.computation.outputs(self.model_wrapped, self._prepare_inputs(batch))
                states = _random_states()
            return found

        return outputs

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, forward and backward.

        The loop's own step sets every module to training again, each time; that takes longer than the arithmetic of
        small models on fast GPUs.
        """
        if not model.training:
            model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # type: ignore[union-attr]
        if self.ahead is not None:
            # Here a run that goes on has its random state back.
            self.computation.begin(self._outputs_beforehand(), self.ahead, distributed.all_gather)
            self.ahead = None
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        del inputs
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        self.accelerator.backward(loss)
        return loss.detach()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return super()._prepare_inputs(self.computation.prepared(inputs))

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=data.is_pinned())
        return super()._prepare_input(data)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of a micro-batch, by the parameters that are no embeddings (Kaplan et al., 2020, section 2.1)."""
        if self.flops_per_token is None:
            count = getattr(self.model, "num_parameters", None)
            self.flops_per_token = 6 * count(exclude_embeddings=True) if count else 0
        return self.flops_per_token * inputs["input_ids"].numel()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Units of a step over all processes; transformers would count labels."""
        own = sum((self.computation.units(batch).to(device) for batch in batch_samples), torch.tensor(0, device=device))
        return self.accelerator.gather(own).sum() if self.args.world_size > 1 else own

    def create_optimizer(self, model: Any = None) -> Any:
        """The user's optimizer where `--optimizer` names one, else that of `--optim`."""
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer(self.model, self.args)
        return super().create_optimizer()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """A micro-batch's share of the step's loss, times the processes over which gradients are averaged."""
        if not self.unwrapped:
            # accelerate's own wrapper also copies all logits to float32; the loss casts some rows at a time.
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            self.unwrapped = True
        if self.neftune:
            self.neftune.begin(inputs)
        with self.accelerator.autocast(), self.offload or nullcontext():
            outputs = self.computation.outputs(model, inputs)
        total = self.computation.loss(outputs).total
        if self.schedule is not None:
            # Shared out over the step's units, so that it counts once however the step is split.
            total = total + self.schedule.penalty() * self.computation.units(inputs)
        loss = total * self.args.world_size / num_items_in_batch.clamp(min=1)
        self.meter.add(loss, inputs)
        if self.channel_meter and getattr(outputs, "channel", None) is not None:
            self.channel_meter.add(outputs, outputs.channel)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss unrounded and averaged over all steps since the last log, across a resume too."""
        # transformers divides the loss of a resumed part by the steps of the whole run.
        logs.pop("train_loss", None)
        if "loss" in logs and "eval_loss" not in logs:
            self._check_losses()
            logs |= self.meter.drain(self.state.global_step, self.args.world_size)
            logs |= self.channel_meter.drain(self.args.world_size) if self.channel_meter else {}
        super().log(logs, start_time)

    def _check_losses(self) -> None:
        """Stop where a loss since the last log is no finite number, on all processes alike.

        Raises:
            SwiftError: it names the step, and the rows of the micro-batch as far as they are known.
        """
        number = self.meter.not_finite()
        told = distributed.all_gather(None if number is None else self._micro_batch(number))
        bad = sorted(each for each in told if each is not None)
        if bad:
            step, rows = bad[0]
            kept = max(Path(str(self.args.output_dir)).glob("checkpoint-*"), key=step_of, default=None)
            raise SwiftError(
                f"the loss of step {step} is not a finite number",
                where=", ".join(rows) or None,
                fix=f"the last checkpoint before it is {kept.name if kept else 'none'}; "
                "look at its rows with swift template, or give a lower --learning_rate",
            )

    def _micro_batch(self, number: int) -> tuple[int, list[str]]:
        """The step of a micro-batch of this process, counted from the last log, and where its rows came from."""
        step = self.meter.last_step + 1
        while number >= len(micro_batches := self.plan.step(step)):
            number -= len(micro_batches)
            step += 1
        if not isinstance(self.collator, Collator):
            return step, []
        samples = self.collator.samples_of(micro_batches[number][self.args.process_index])
        sources = [self.collator.dataset[sample].source for sample in samples]
        return step, [str(source) for source in sources if source is not None]

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss per unit over the whole evaluation set, and the task's figures.

        Args:
            eval_dataset: samples in place of the run's own evaluation set.
            ignore_keys: nothing here: the task says what is computed.
            metric_key_prefix: stands before each name in the result.

        Raises:
            SwiftError: there are no samples, or they are not tokenised.
        """
        collator, units = self._evaluated(eval_dataset)
        started = time.perf_counter()
        plan = StepPlan(
            units,
            batch_size=self.args.per_device_eval_batch_size,
            accumulation=1,
            world_size=self.args.world_size,
            seed=0,
            shuffle=False,
        )
        model: Any = self._wrap_model(cast(Any, self.model), training=False)
        model.eval()
        evaluation = self.computation.evaluation()
        with self.averaged(), closing(self._loader(plan, collator, self.args.process_index)) as loader:
            for batch in loader:
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager(), self.accelerator.autocast():
                    evaluation.add(model, batch)
            found = evaluation.result(distributed.all_gather)
            for measure in self.measures if collator is self.eval_collator else ():
                own = self.accelerator.unwrap_model(self.model)
                found |= measure.figures(own, self.state.global_step, self.accelerator.autocast)
        result = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        result[f"{metric_key_prefix}_runtime"] = time.perf_counter() - started
        self.log(dict(result))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result

    def _evaluated(self, dataset: Any) -> tuple[Collator, int]:
        """The collator and the number of units to evaluate on."""
        if dataset is not None and dataset is not self.eval_dataset:
            if not isinstance(dataset, EncodedDataset):
                raise SwiftError(
                    f"evaluate takes tokenised samples, not {type(dataset).__name__}",
                    fix="make them with swift.data.encode_rows",
                )
            return Collator(dataset, None, self.collator.layout), len(dataset)
        if self.eval_collator is None:
            raise SwiftError("there are no samples to evaluate on", fix="pass eval_dataset")
        return self.eval_collator, self.eval_units

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write `checkpoint-N` beside its place and rename it, so that it is whole or not there."""
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.state.log_history and getattr(self, "_saved_step", None) == self.state.global_step:
            return
        self._check_losses()
        self.store_flos()
        self._note_best(checkpoint)
        # The others' parts are few bytes, and the disks of other nodes need not be this one's.
        if self.args.should_save:
            with atomic_folder(checkpoint) as folder:
                self._write(folder)
                others = distributed.gather(dict[str, bytes]())
                for files in others:
                    for name, content in files.items():
                        (folder / name).write_bytes(content)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                self._write(Path(temporary))
                distributed.gather({file.name: file.read_bytes() for file in Path(temporary).iterdir()})
        self._saved_step = self.state.global_step
        distributed.barrier()
        if self.args.should_save:
            self._rotate(checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the average of its weights, where there is one."""
        return self.average.acting() if self.average else nullcontext()

    def _write(self, folder: Path) -> None:
        """This process's part of a checkpoint; the main one writes the model and the state."""
        if self.args.should_save:
            with self.averaged(), self.schedule.acting_ranks() if self.schedule else nullcontext():
                self.keep_model(self.accelerator.unwrap_model(self.model), folder)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.meter.save(folder / f"meter_{self.args.process_index}.json")
            if self.channel_meter:
                self.channel_meter.save(folder / f"channels_{self.args.process_index}.json")
            for part in (self.schedule, self.told, self.average):
                if part is not None and self.args.should_save:
                    part.save(folder)
        if not self.args.should_save:
            return
        states: Any = self.state.stateful_callbacks
        for part in [*self.callback_handler.callbacks, self.control]:
            if isinstance(part, ExportableState):
                states[type(part).__name__] = part.state()
        self.state.save_to_json(str(folder / STATE))

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        """Whether the newest evaluation is the best; transformers 4.57 forgets its step with `--save_strategy best`."""
        better = bool(super()._determine_best_metric(metrics=metrics, trial=trial))
        if better:
            self.state.best_global_step = self.state.global_step
        return better

    def _note_best(self, checkpoint: Path) -> None:
        if self.state.best_global_step and self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoint)

    def _rotate(self, newest: Path) -> None:
        """Remove old checkpoints beyond `--save_total_limit` and point the links; the best one stays."""
        run = newest.parent
        best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None
        if self.symlinks:
            link_checkpoint(run, "last", newest)
            if best and best.exists():
                link_checkpoint(run, "best", best)
        limit = self.save_total_limit
        if not limit:
            return
        kept = {newest, best} if best else {newest}
        old = sorted(
            (path for path in run.glob("checkpoint-*") if path.name[11:].isdigit() and path not in kept),
            key=lambda path: int(path.name[11:]),
        )
        for path in old[: max(len(old) + len(kept) - limit, 0)]:
            remove_folder(path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both; the learning rate is the schedule's own, also where the run was made longer."""
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if checkpoint is not None and isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, base, share in groups:
                group["lr"] = base * share(schedule.last_epoch)

    def save_now(self) -> Path:
        """A checkpoint of the last whole step, written where there is none."""
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if distributed.any_process(not checkpoint.is_dir()):
            self._save_checkpoint(self.model, None)
        return checkpoint

    def save_last(self) -> Path:
        """The checkpoint of the last step, written where no strategy has written it."""
        # With --load_best_model_at_end the model holds the best step's weights by now.
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            return Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        return self.save_now()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take the weights from a checkpoint, unless the model was loaded from it to begin with."""
        folder = Path(resume_from_checkpoint)
        if not self.weights_loaded and hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif not self.weights_loaded:
            load_whole(self.model, folder)
        for part in (self.schedule, self.told, self.average):
            if part is not None:
                part.load(folder)
        file = folder / f"meter_{self.args.process_index}.json"
        if file.is_file():
            self.meter.load(json.loads(file.read_text(encoding="utf-8")))
        else:
            self.meter.start_at(step_of(folder))
        if self.channel_meter:
            self.channel_meter.load(folder / f"channels_{self.args.process_index}.json")


def _random_states() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_states(states: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
