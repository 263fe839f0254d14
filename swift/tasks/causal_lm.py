"""The task of language models: the next token of a text."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError
from swift.objectives import objectives
from swift.tasks import metrics, task
from swift.tasks.base import PlannedLoss, Task
from swift.tasks.wording import OVERLAP

if TYPE_CHECKING:
    from swift.data.encoding import Encoder
    from swift.tasks.tokens import TokenComputation
    from swift.templates import Template


@task("causal_lm")
class CausalLm(Task):
    """Tokens of the rows' turns, as the template renders them."""

    name, from_tokens = "causal_lm", True
    losses = ("cross_entropy", "dft")

    def check(self) -> None:
        """Stop at a loss or a metric that is not there."""
        self.check_loss()
        objectives.check(self.loss_name())
        metric, answers = self.config.train.eval_metric, self.config.predict.predict_with_generate
        if metric == "nlg" and not answers:
            raise SwiftError("--eval_metric nlg compares generated answers", fix="add --predict_with_generate true")
        if metric and metric != "nlg":
            metrics.check(metric)
        if answers and self.config.command == "pt":
            raise SwiftError(
                "--predict_with_generate with swift pt: texts have no answers", fix="leave it out, or use swift sft"
            )

    @property
    def figures(self) -> dict[str, bool]:
        """The share of right tokens where it is asked for, and what is measured of answers."""
        train = self.config.train
        found = {f"{train.acc_strategy}_acc": True} if train.eval_metric == "acc" else {}
        measured = (*OVERLAP, "acc") if self.config.predict.predict_with_generate else ()
        return found | dict.fromkeys(measured, True)

    def loss_name(self) -> str:
        """The objective's name.

        Raises:
            SwiftError: two options name two objectives.
        """
        train = self.config.train
        if train.enable_dft_loss and train.loss_type not in (None, "dft"):
            raise SwiftError(f"--enable_dft_loss true with --loss_type {train.loss_type}", fix="keep one of them")
        return "dft" if train.enable_dft_loss else train.loss_type or "cross_entropy"

    def encoder(self, template: Template, longest: int | None) -> Encoder:
        """The template itself."""
        return template

    def computation(self, model: Any, trained: int) -> TokenComputation:
        """The log-probabilities of trained tokens."""
        from swift.tasks.tokens import TokenComputation, chosen_head

        train = self.config.train
        by_sample = train.eval_metric == "acc" and train.acc_strategy == "seq"
        by_token = train.eval_metric not in (None, "nlg") and not by_sample
        return TokenComputation(
            model,
            objectives.get(self.loss_name()),
            metrics.get(train.eval_metric) if by_token else None,
            by_sample=by_sample,
            head=chosen_head(self.config, model, trained),
            smoothing=train.more.get("label_smoothing_factor") or 0.0,
            balance=train.router_aux_loss_coef,
        )

    def planned(self, model: Any, trained: int) -> PlannedLoss:
        """Minus the log-probabilities, through the output embedding as the run computes them."""
        from swift.tasks.token_logps import logps_at, takes_logits_to_keep
        from swift.tasks.tokens import chosen_head

        balance = bool(self.config.train.router_aux_loss_coef)
        if balance:
            check_experts(model)
        head, select = chosen_head(self.config, model, trained), takes_logits_to_keep(model)

        def loss(model: Any, inputs: dict[str, Any], kept: Any, targets: Any) -> Any:
            logps, _, uneven = logps_at(model, inputs, kept, targets, None, select, 0.0, head, balance)
            return -logps.sum() if uneven is None else uneven - logps.sum()

        return loss


def check_experts(model: Any) -> None:
    """Stop at a model that does not tell how its experts are used.

    Raises:
        SwiftError: it has none, or its code does not tell.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "output_router_logits" not in inspect.signature(inner.forward).parameters:
        raise SwiftError(
            f"--router_aux_loss_coef: {type(inner).__name__} does not tell how evenly it uses experts",
            fix="leave it out",
        )
