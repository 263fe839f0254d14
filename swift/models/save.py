"""Saving whole models so that either generation of transformers, and other tools, read them as their base."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.compat import portable_config, portable_tokenizer_config, read_json, save_model
from swift.models.architecture import load_config
from swift.models.weights import WEIGHT_SUFFIXES, tensor_files, tensor_names

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_TOKENIZER = ("token", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "chat_template", "sentencepiece")
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".spm", ".bpe")
_TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
# Made anew by saving, about another model, or left over from a run.
_NOT_CARRIED = ("config.json", "README.md", "trainer_state.json", "all_results.json", "train_results.json", "args.json")
_CARRIED_SUFFIXES = (*_TOKENIZER_SUFFIXES, ".md")
# What transformers and its Trainer set while a model is in use; none of it is a change to the model.
_UNTOLD = frozenset(
    {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "_attn_implementation", "auto_map", "use_cache"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
)
_OLD_ROPE = ("rope_theta", "rope_scaling")


def save_pretrained(
    model: PreTrainedModel,
    output_dir: str | Path,
    *,
    base_dir: str | Path,
    state_dict: dict[str, torch.Tensor] | None = None,
    max_shard_size: str = "5GB",
    safe_serialization: bool = True,
) -> None:
    """Writes `model` into `output_dir` as a full model that differs from its base only in what was trained.

    Tokenizer, chat template, processor and generation files come from the base folder byte for byte; config.json is
    the base's with what changed; tensors have the names that the base's files use, and tensors of the base that the
    architecture does not load (such as multi-token prediction heads) are carried over.

    Args:
        model: the model, without adapters on it.
        output_dir: an existing or new folder; for a save that a kill cannot spoil, one of `atomic_folder`.
        base_dir: the folder the model was loaded from.
        state_dict: the weights, where they are not `model.state_dict()` (gathered from several processes, merged).
        max_shard_size: a size such as `5GB`; a larger model is written as several files and an index.
        safe_serialization: False writes .bin files, where the installed transformers still can (4.x).
    """
    output, base = Path(output_dir), Path(base_dir)
    output.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state_dict is None else dict(state_dict)
    tied = _tied_names(model, state)
    save_model(
        model, output, state_dict=dict(state), max_shard_size=max_shard_size, safe_serialization=safe_serialization
    )
    _write_config(model, _main_dtype(state), base, output)
    (output / "generation_config.json").unlink(missing_ok=True)
    _carry_files(base, output)
    if safe_serialization and not _is_other_class(model, base):
        _carry_tensors(state, tied, base, output)


def _is_other_class(model: PreTrainedModel, base: Path) -> bool:
    """Whether the model has another head than its base: weights of the old one stay behind."""
    named = read_json(base / "config.json").get("architectures") or []
    return bool(named) and type(model).__name__ not in named


def save_tokenizer(base_dir: str | Path, output_dir: str | Path) -> None:
    """Copies tokenizer and chat template from one folder to another, byte for byte.

    One line is changed where it has to be: a tokenizer class that only transformers 5 has.
    """
    base, output = Path(base_dir), Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for file in _plain_files(base):
        name = file.relative_to(base)
        in_templates = name.parts[0] in _TEMPLATE_FOLDERS
        if in_templates or (len(name.parts) == 1 and _is_tokenizer_file(name.name)):
            _copy(file, output / name)


def _is_tokenizer_file(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(_TOKENIZER_SUFFIXES) and (
        any(part in lower for part in _TOKENIZER) or lower.endswith((".tiktoken", ".model", ".spm"))
    )


def _carry_files(base: Path, output: Path) -> None:
    """Every file of the base that says what the model is: tokenizer, templates, processors, code, licence."""
    for file in _plain_files(base):
        name = file.relative_to(base)
        licence = file.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        if str(name) in _NOT_CARRIED or name.name.endswith(".index.json"):
            continue
        if licence or file.suffix.lower() in _CARRIED_SUFFIXES:
            _copy(file, output / name)


def _plain_files(base: Path) -> Iterator[Path]:
    """Files in the base and one level below it, without weights, hidden files and folders of a training run."""
    for entry in sorted(base.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not _is_leftover(entry.name):
            yield from (file for file in sorted(entry.iterdir()) if _is_plain(file))
        elif _is_plain(entry):
            yield entry


def _is_leftover(folder: str) -> bool:
    return folder.startswith(("checkpoint-", "global_step", "runs", "onnx", "original", "__pycache__", "v0-", "v1-"))


def _is_plain(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.suffix.lower() not in WEIGHT_SUFFIXES


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.name != "tokenizer_config.json":
        shutil.copyfile(file, target)
        return
    with open(target, "w", encoding="utf-8", newline="") as handle, open(file, encoding="utf-8", newline="") as source:
        handle.write(portable_tokenizer_config(source.read()))


def _write_config(model: PreTrainedModel, dtype: str | None, base: Path, output: Path) -> None:
    """config.json: the base's bytes where nothing changed, else the base's content with the changes."""
    file = base / "config.json"
    raw = read_json(file)
    # Code that came with the model runs again only where it was trusted when the model was loaded.
    trusted = type(model.config).__module__.startswith("transformers_modules")
    loaded = load_config(base, trust_remote_code=trusted)
    # Another head may find the end of a text by the token that pads.
    untold = _UNTOLD - {"pad_token_id"} if _is_other_class(model, base) else _UNTOLD
    config = _with_changes(raw, _content(loaded), _content(model.config), untold)
    if dtype is not None and dtype != raw.get("dtype", raw.get("torch_dtype")):
        config["dtype"] = dtype
    config = portable_config(config)
    if config == raw:
        shutil.copyfile(file, output / "config.json")
        return
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (output / "config.json").write_text(text + "\n", encoding="utf-8")


def _content(config: PretrainedConfig) -> dict[str, Any]:
    """All that the config says, as JSON would hold it: also values that happen to be the architecture's defaults."""
    return json.loads(config.to_json_string(use_diff=False))


def _with_changes(
    raw: dict[str, Any], loaded: dict[str, Any], now: dict[str, Any], untold: frozenset[str] = _UNTOLD
) -> dict[str, Any]:
    """`raw` with what differs between `loaded` (raw, as transformers reads it) and `now`."""
    result = dict(raw)
    for key, value in now.items():
        before, inner = loaded.get(key), raw.get(key)
        if key in untold or (key in loaded and before == value):
            continue
        if isinstance(value, dict) and isinstance(before, dict) and isinstance(inner, dict) and "rope" not in key:
            result[key] = _with_changes(inner, before, value)
        elif key in loaded or key not in raw:
            result[key] = value
    if result.get("rope_parameters") != raw.get("rope_parameters"):
        result = {key: value for key, value in result.items() if key not in _OLD_ROPE}
    elif any(result.get(key) != raw.get(key) for key in _OLD_ROPE):
        result.pop("rope_parameters", None)
    return result


def _main_dtype(state: dict[str, torch.Tensor]) -> str | None:
    """The dtype of most floating-point values, by torch's name."""
    counts: dict[str, int] = {}
    for tensor in state.values():
        if tensor.is_floating_point():
            name = str(tensor.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + tensor.numel()
    return max(counts, key=lambda name: counts[name]) if counts else None


def _tied_names(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Name -> the other name of the same weights, from the model's parameters (a given state may hold copies)."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            tied[name], tied[other] = other, name
    return {name: other for name, other in tied.items() if other in state}


def _carry_tensors(state: dict[str, torch.Tensor], tied: dict[str, str], base: Path, output: Path) -> None:
    """Adds the tensors that the base's files have and the saved ones lack.

    A tied weight that the base stored twice is stored twice again, with the trained values; what the architecture
    never loaded is the base's own.
    """
    if read_json(base / "config.json").get("quantization_config"):
        return  # the base's names are those of packed weights, which a full model does not have
    before, after = tensor_files(base), tensor_names(output)
    absent = sorted(set(before) - after)
    twice = {name: state[tied[name]] for name in absent if name in tied}
    unloaded = [name for name in absent if name not in tied and name not in state]
    new = after - set(before)
    if unloaded and new:
        logger.warning(
            "%d tensors of the base are not in the saved model (%s) while %d are new (%s): they are left out.",
            len(unloaded),
            unloaded[0],
            len(new),
            min(new),
        )
        unloaded = []
    extra = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in twice.items()}
    extra.update(_read_tensors({name: before[name] for name in unloaded}))
    if extra:
        _add_shard(extra, output)


def _read_tensors(files: dict[str, Path]) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for file in sorted(set(files.values())):
        names = [name for name, place in files.items() if place == file]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as handle:
                found.update({name: handle.get_tensor(name) for name in names})
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found.update({name: weights[name].contiguous() for name in names})
    return found


def _add_shard(extra: dict[str, torch.Tensor], output: Path) -> None:
    """Writes `extra` as one more file, renames the others to the new count, and writes the index."""
    from safetensors.torch import save_file

    places = tensor_files(output)
    files = sorted(set(places.values()))
    count = len(files) + 1
    names = {file: f"model-{number:05d}-of-{count:05d}.safetensors" for number, file in enumerate(files, 1)}
    last = f"model-{count:05d}-of-{count:05d}.safetensors"
    index = output / "model.safetensors.index.json"
    metadata = read_json(index).get("metadata", {})
    for file, name in names.items():
        file.rename(output / name)
    save_file(extra, output / last, metadata={"format": "pt"})
    weight_map = {name: names[file] for name, file in places.items()} | dict.fromkeys(extra, last)
    total = sum((output / name).stat().st_size for name in [*names.values(), last])
    content = {"metadata": {**metadata, "total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
