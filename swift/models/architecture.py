"""From config.json to the class that builds the model: the architecture decides, never the model's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.compat import heal_config, read_json
from swift.errors import SwiftError, first_line
from swift.hub.files import check_model_folder
from swift.models.registered import model_loaders

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DAMAGED = "copy or download the file again from the model's page"

# Auto classes, in the order in which a model that generates is looked for.
_AUTO = (
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForVision2Seq",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForSequenceClassification",
    "AutoModel",
)


def load_config(path: str | Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's config, meaning the same under either generation of transformers.

    Raises:
        SwiftError: config.json is missing or broken, its architecture is unknown to the installed transformers, or it
            needs the model's own code and `trust_remote_code` is not set.
    """
    from transformers import AutoConfig

    folder = Path(path)
    raw = read_config(folder)
    check_remote_code(folder, raw, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, TypeError, OSError, ImportError, AttributeError) as error:
        raise SwiftError(
            f"config.json cannot be read: {first_line(error)}",
            where=str(folder / "config.json"),
            fix="compare it with the model's page, or install a newer transformers.",
        ) from error
    return heal_config(config, raw)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands in the folder.

    Raises:
        SwiftError: it is not there, or is not a JSON object.
    """
    check_model_folder(folder)
    file = folder / "config.json"
    try:
        raw = read_json(file)
    except ValueError as error:
        raise SwiftError(f"config.json is not valid JSON: {error}.", where=str(file), fix=DAMAGED) from error
    if not isinstance(raw, dict):
        raise SwiftError("config.json is not a JSON object.", where=str(file), fix=DAMAGED)
    return raw


def check_remote_code(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> None:
    """Refuses, before any code of the model runs, an architecture that transformers does not have.

    Raises:
        SwiftError: the architecture is unknown, or needs code that the user has not said to trust.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = raw.get("model_type")
    if model_type in CONFIG_MAPPING or (model_type is None and not raw.get("auto_map")):
        return
    name = model_type or ", ".join(raw.get("architectures") or ["unnamed"])
    if not raw.get("auto_map"):
        from transformers import __version__

        raise SwiftError(
            f"transformers {__version__} does not know the architecture {name!r}, and the model brings no code for it.",
            where=str(folder / "config.json"),
            fix="pip install -U transformers",
        )
    if not trust_remote_code:
        files = ", ".join(sorted(file.name for file in folder.glob("*.py"))) or "downloaded from its hub page"
        raise SwiftError(
            f"the architecture {name!r} is not in transformers: it needs the model's own code ({files}).",
            where=str(folder),
            fix="read that code; if you trust it, add `--trust_remote_code true`.",
        )


def find_class(config: PretrainedConfig, raw: dict[str, Any], *, trust_remote_code: bool) -> tuple[Any, str]:
    """The class whose `from_pretrained` loads this model, and the reason.

    It is the class that `architectures` names, where transformers has it; else the first auto class that knows the
    config; with trusted remote code, the auto class that `auto_map` names.

    Raises:
        SwiftError: no class of transformers fits.
    """
    import transformers

    auto_map = raw.get("auto_map") or {}
    if trust_remote_code and auto_map:
        for name in _AUTO:
            if name in auto_map and hasattr(transformers, name):
                return getattr(transformers, name), f"{name}, with the model's own code"
    for name in raw.get("architectures") or []:
        if name in model_loaders:
            return model_loaders.get(name), f"{name}, from --external_plugins"
    for name in raw.get("architectures") or []:
        found = getattr(transformers, name, None)
        if found is not None and hasattr(found, "from_pretrained"):
            return found, f"{name}, named by config.json"
    for name in _AUTO:
        auto = getattr(transformers, name, None)
        if auto is not None and type(config) in auto._model_mapping:
            return auto, f"{name}, for model type {raw.get('model_type')}"
    raise SwiftError(
        f"transformers has no model class for {raw.get('architectures') or raw.get('model_type')}.",
        where="config.json",
        fix="pip install -U transformers",
    )


def concrete_class(loader: Any, config: PretrainedConfig) -> type | None:
    """The model class behind an auto class; None where remote code brings it."""
    mapping = getattr(loader, "_model_mapping", None)
    if mapping is None:
        return loader
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found
