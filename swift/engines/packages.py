"""What the engines of packages of their own share: our template around their token ids, in a loop of their own.

Our template renders the prompts and parses the answers, and all that ends an answer is ours, so that prompts, stops,
reasoning and tool calls are those of the other engines.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.engines.answers import Answer, Ticket, fail
from swift.engines.base import Engine, InferRequest, Listener, Logprob, RequestConfig
from swift.engines.plain_lora import check_alone, no_adapter
from swift.engines.prompts import answer_limit, end_ids, kinds_in, read_prompt, with_stops
from swift.engines.sampling import OF_GENERATE
from swift.environments.kinds import check_device
from swift.errors import SwiftError
from swift.models.source import ModelSource
from swift.templates.media import MediaReader

if TYPE_CHECKING:
    from swift.templates import Template

T = TypeVar("T")
Tokens = Sequence[tuple[int, Logprob | None]]
"""New tokens of an answer, with their log-probabilities where those are asked for."""

NOT_THERE = ("typical_p", "epsilon_cutoff", "eta_cutoff")
"""Parameters of sampling that a generation config may set and none of the packages has."""
ALWAYS = "always"
"""The name of the adapter that acts where a request names none."""


@dataclass(frozen=True)
class Start:
    """What a package starts with.

    Attributes:
        source: the model.
        config: the options of loading it.
        options: the package's own, by its names; they go over all others.
        max_length: longest prompt with its answer, in tokens; None means the model's context.
        decisions: takes a note of what is chosen.
    """

    source: ModelSource
    config: ModelConfig
    options: dict[str, Any]
    max_length: int | None
    decisions: Decisions

    @property
    def length(self) -> int | None:
        """Longest prompt with its answer, in tokens."""
        return self.config.max_model_len or self.max_length

    def dtype(self) -> str:
        """The name of the weights' dtype."""
        from swift.models.devices import pick_device
        from swift.models.load import dtype_of

        dtype = dtype_of(self.source.path, self.config.torch_dtype, pick_device()[0])
        name = str(dtype.dtype).removeprefix("torch.")
        self.decisions.add("torch_dtype", name, "model", dtype.reason)
        return name


class PackageEngine(Engine):
    """An engine of a package that takes token ids and gives token ids.

    Args:
        model: a model's name or folder.
        max_length: longest prompt with its answer, in tokens; None means the model's context.
        load_args: take template, system text and switches from the adapter or checkpoint.
        options: the options of the model and the template that `swift infer` takes, and the package's own, with its
            name and `_` before their names or without.

    Raises:
        SwiftError: the package is not installed, an option is unknown, or the model is none that it runs.
    """

    package: ClassVar[str]
    """Its name, as `--infer_backend` has it."""
    media_kinds: ClassVar[tuple[str, ...]] = ()
    """What the package is given besides text."""
    reader: MediaReader | None = None
    """Reads media for the model; None where text alone is read."""

    def __init__(
        self,
        model: str | None,
        *,
        max_length: int | None = None,
        load_args: bool = True,
        engine_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        from swift.engines.options import find_parts, split_options

        check_installed(self.package)
        config, own = split_options(model, options, self.package)
        decisions = Decisions()
        source, template = find_parts(config, decisions, load_args=load_args, backend=self.package)
        options = own | dict(engine_kwargs or {})
        self._open(template, Start(source, config.model, options, max_length, decisions))

    @classmethod
    def from_source(
        cls,
        source: ModelSource,
        template: Template,
        config: ModelConfig,
        *,
        max_batch_size: int = 8,
        max_length: int | None = None,
        decisions: Decisions,
        engine_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Start on what `find_source` found; how many answers are generated at once is the package's own choice."""
        check_installed(cls.package)
        made = cls.__new__(cls)
        made._open(template, Start(source, config, dict(engine_options or {}), max_length, decisions))
        return made

    def _open(self, template: Template, start: Start) -> None:
        self.template, self.tokenizer = template, template.tokenizer
        self._defaults = generation_config_of(start.source.path, self.package)
        self._stop_ids = end_ids(template, self._defaults)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=self.package, daemon=True).start()
        try:
            self.context = self._begin(start)
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        atexit.register(self.close)
        start.decisions.add("max_model_len", self.context, "model", "prompt and answer together, in tokens")

    @abstractmethod
    def _begin(self, start: Start) -> int:
        """Start the package with its own options, and give the longest prompt with its answer, in tokens.

        Raises:
            SwiftError: it does not start, or does not have what an option asks for.
        """

    @abstractmethod
    def _params(self, config: RequestConfig, prompt: list[int], index: int, ends: set[int], limit: int) -> Any:
        """The parameters of one answer as the package takes them.

        Raises:
            SwiftError: it does not have one of them.
        """

    @abstractmethod
    def _tokens(self, answer: Answer, params: Any, adapter: Any) -> AsyncGenerator[Tokens, None]:
        """The tokens of an answer as they come; closing it makes the package drop the request."""

    @abstractmethod
    def _adapter(self, name: str | None) -> Any:
        """An adapter as the package takes it with a request.

        Raises:
            SwiftError: there is none of this name.
        """

    @abstractmethod
    async def _end(self) -> None:
        """End the package's processes."""

    def _mistake(self, error: Exception) -> Exception:
        """What a user can do about an error of the package; our own bugs stay as they are."""
        return error

    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> Ticket:
        """Take a request; the listener is told in a thread of the engine.

        Raises:
            SwiftError: the prompt is longer than the context, holds media that are not read, or cannot be rendered;
                the package lacks a parameter; there is no such adapter.
        """
        if config.num_beams > 1:
            raise SwiftError(
                f"num_beams {config.num_beams}: {self.package} searches no beams", fix="use --infer_backend pt"
            )
        config = with_stops(config, self.template)
        adapter = self._adapter(request.adapter)
        if self.reader is not None and (other := kinds_in(request) - set(self.media_kinds)):
            raise SwiftError(
                f"{self.package} is not given {', '.join(sorted(other))} here", fix="use --infer_backend pt"
            )
        prompt, media = read_prompt(self.template, request, self.context, self.reader)
        template = self.template if request.prompt is None else None
        ticket = PackageTicket(request, config, prompt, template, self.tokenizer, listener, whole=whole)
        ticket.media = media
        ends = set(config.stop_token_ids) | (set() if config.ignore_eos else self._stop_ids)
        limit = answer_limit(config, prompt, self.context)
        params = [self._params(config, prompt, index, ends, limit) for index in range(config.n)]
        for index, each in enumerate(params):
            answer = Answer(ticket, index, limit=limit, ends=ends, picker=None)
            ticket.work.append(asyncio.run_coroutine_threadsafe(self._answer(answer, each, adapter), self._loop))
        return ticket

    async def _answer(self, answer: Answer, params: Any, adapter: Any) -> None:
        """Hand the package's tokens to an answer."""
        try:
            async with aclosing(self._tokens(answer, params, adapter)) as told:
                async for tokens in told:
                    for token, logprob in tokens:
                        if not answer.over:
                            answer.push(token, logprob)
                    if answer.over:
                        break
            answer.end("length")
        except Exception as error:
            fail([answer], self._mistake(error))

    def encode(self, request: InferRequest) -> list[int]:
        """The prompt's token ids.

        Raises:
            SwiftError: the request holds media that are not read, has nothing to answer, or is longer than the context.
        """
        return read_prompt(self.template, request, self.context, self.reader)[0]

    def _read_media(self, start: Start) -> None:
        """Read what the model's processor reads."""
        trust = start.config.trust_remote_code
        self.reader = MediaReader.find(start.source.path, self.template, trust_remote_code=trust)
        self.reads_media = self.reader is not None

    def close(self) -> None:
        """End the package's processes; the interpreter does it at its end."""
        atexit.unregister(self.close)
        if not self._loop.is_running():
            return
        try:
            self._wait(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class NamingEngine(PackageEngine):
    """A package that knows adapters by their names alone."""

    def _take_names(self, given: Mapping[str, str | Path], source: ModelSource) -> dict[str, Path]:
        """The adapters to start with, by name: those given, and the one that acts where a request names none.

        Raises:
            SwiftError: several would act, or a name is taken.
        """
        check_alone(source.adapters, self.package)
        self.names = {name: Path(folder) for name, folder in given.items()}
        if ALWAYS in self.names:
            raise SwiftError(f"--adapters {ALWAYS}=…: this name is taken", fix="give the adapter another one")
        self._usual = ALWAYS if source.adapters else None
        always = {ALWAYS: source.adapters[0]} if source.adapters else {}
        return self.names | always

    def _adapter(self, name: str | None) -> str | None:
        if name is not None and name not in self.names:
            raise no_adapter(name, self.names)
        return name or self._usual


class PackageTicket(Ticket):
    """A request whose answers a package makes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.work: list[Any] = []

    def cancel(self) -> None:
        """Stop answering, also where no token has come yet."""
        super().cancel()
        for future in self.work:
            future.cancel()


def check_installed(package: str) -> None:
    """Raise SwiftError where a package is not in this environment, or this machine has no device for it."""
    check_device(package)
    if find_spec(package) is None:
        raise SwiftError(
            f"--infer_backend {package} needs {package}, which is not installed here",
            fix=f"pip install {package}; or swift env install {package}, which swift infer and swift deploy use by "
            "themselves",
        )


def check_options(config: ModelConfig, source: ModelSource, package: str, elsewhere: Mapping[str, str]) -> None:
    """Stop at options of loading a model that a package does not have.

    Args:
        elsewhere: those, and what stands for each.

    Raises:
        SwiftError: one of them is given, or the adapter needs what the package does not have.
    """
    for name, instead in elsewhere.items():
        if getattr(config, name) is not None:
            raise SwiftError(
                f"--{name} {getattr(config, name)} is not for {package}", fix=f"leave it out; there is {instead}"
            )
    if source.new_tokens:
        raise SwiftError(
            f"the adapter has tokens of its own, which {package} cannot add", fix="merge it: swift merge-lora"
        )


def generation_config_of(folder: Path, package: str = "vllm") -> Any:
    """The model's generation config, as transformers reads it.

    Raises:
        SwiftError: it asks for what the package does not have.
    """
    from transformers import AutoConfig, GenerationConfig

    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder)
    else:
        found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    asked = found.to_diff_dict()
    if wrong := [name for name in (*NOT_THERE, *OF_GENERATE) if asked.get(name)]:
        raise SwiftError(
            f"generation_config.json sets {', '.join(wrong)}, which {package} does not have",
            where=str(folder),
            fix="use --infer_backend pt, or take it out of the file",
        )
    return found
