"""Typed configurations: one dataclass for each concern, composed into one for each command.

The option's help, choices, aliases and reasons stand in the field itself, so that `--help`, the reference page and the
YAML keys come from one place. Nothing here imports more than the standard library.
"""

from __future__ import annotations

from swift.config.commands import DoctorConfig, InferConfig, MergeConfig, PtConfig, SftConfig
from swift.config.data import DataConfig
from swift.config.decisions import Decisions
from swift.config.generate import GenerateConfig
from swift.config.model import ModelConfig
from swift.config.optimizer import OptimizerConfig
from swift.config.output import OutputConfig
from swift.config.template import TemplateConfig, TrainTemplateConfig
from swift.config.train import TrainConfig
from swift.config.tuner import TunerConfig

__all__ = [
    "DataConfig",
    "Decisions",
    "DoctorConfig",
    "GenerateConfig",
    "InferConfig",
    "MergeConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OutputConfig",
    "PtConfig",
    "SftConfig",
    "TemplateConfig",
    "TrainConfig",
    "TrainTemplateConfig",
    "TunerConfig",
]
