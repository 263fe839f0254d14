"""BAdam: Adam on one layer at a time (Luo et al., 2024, arXiv 2404.02827); `swift.tuners.layers` gives the turns."""

from __future__ import annotations

from typing import Any

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.rules import RuleOptimizer, adam_options, adamw, grouped, trained


@optimizer("badam")
def badam(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """AdamW, which keeps moments only for weights that have gradients."""
    groups = grouped(trained(model), args, rule="adamw", **adam_options(args))
    return RuleOptimizer(groups, {"adamw": adamw}, lr=args.learning_rate)
