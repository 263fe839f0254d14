"""`Swift`, the name under which Python users attach and load tuners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.errors import SwiftError


class Swift:
    """Attach a tuner to a loaded model, or load one that was trained."""

    @staticmethod
    def prepare_model(model: Any, config: Any) -> Any:
        """Attach what `config` describes: a PEFT configuration, one of `swift.tuners.configs`, or a `TunerConfig`.

        Raises:
            SwiftError: the configuration is neither.
        """
        from peft import PeftConfig, get_peft_model

        from swift.config import TunerConfig
        from swift.tuners import tuners
        from swift.tuners.configs import OwnConfig

        if isinstance(config, OwnConfig):
            config = config.to_options(model)
        if isinstance(config, TunerConfig):
            return tuners.get(config.train_type)(model, config)
        if not isinstance(config, PeftConfig):
            raise SwiftError(
                f"prepare_model takes a configuration of PEFT's or swift's, not {type(config).__name__}",
                fix="from swift import LoraConfig, AdapterConfig",
            )
        if getattr(config, "target_modules", None) in (["all-linear"], {"all-linear"}):
            config.target_modules = "all-linear"  # type: ignore[attr-defined]
        return get_peft_model(model, config)

    @staticmethod
    def from_pretrained(model: Any, adapter: str | Path, *, is_trainable: bool = False, **options: Any) -> Any:
        """Load the adapter in a folder, or of a hub's id, onto its base model.

        Raises:
            SwiftError: there is no such adapter, or it is one for another base model.
        """
        from peft import PeftModel

        from swift.models.new_tokens import fit_rows
        from swift.models.record import check_base, read_record
        from swift.models.source import adapter_folder
        from swift.tuners.adapters import rows_wanted, tuner_of
        from swift.tuners.attached import ATTACHED, load_parts

        folder = adapter_folder(str(adapter))
        record = read_record(folder)
        if not record.is_adapter:
            raise SwiftError(f"{adapter} holds no adapter", fix="name a folder with adapter_config.json")
        check_base(record, model.config.to_dict(), getattr(model.config, "name_or_path", "this model"))
        fit_rows(model, rows_wanted(folder))
        if tuner_of(folder) in ATTACHED:
            return load_parts(model, folder, trainable=is_trainable)
        return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable, **options)
