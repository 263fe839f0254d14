"""Media in a prompt: the model's own processor says what stands for them, and our encoder makes the ids.

A chat template writes one placeholder for a picture, and the model's processor writes as many tokens as the picture
takes in its place. The processor is called for that and for the picture's tensors; the ids are ours, so that a text
that spells out a placeholder stays text.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError, first_line
from swift.media import EVERYTHING, Access, open_audio, open_image, open_video, value_in
from swift.templates.messages import KIND_OF
from swift.templates.provenance import LITERAL, Traced

if TYPE_CHECKING:
    from swift.templates.template import Template

FILES = ("preprocessor_config.json", "processor_config.json")
"""One of them is in the folder of a model that reads more than text."""
PRIVATE = 0xE000
"""A character that no vocabulary's special tokens hold."""
RATE = 16000
"""Samples a second where a processor names none."""
MOST_TOGETHER = 2 << 30
"""The most that the opened media of a request may take, in bytes."""
logger = logging.getLogger(__name__)
WORDS = {"image": "pictures", "video": "films", "audio": "sounds"}
Taken = list[tuple[str, Any]]
"""Media in their order, each with its kind."""


@dataclass
class MediaPrompt:
    """A prompt with media.

    Attributes:
        ids: token ids, with as many for each medium as the model takes.
        short: with the chat template's one placeholder for each instead, for engines that have a processor themselves.
        tensors: what the model takes besides the ids, such as `pixel_values`.
        media: opened, by kind: pictures, films as (frames, metadata), sounds as samples.
        rate: samples a second of sounds.
    """

    ids: list[int]
    short: list[int]
    tensors: dict[str, Any] = field(default_factory=dict)
    media: dict[str, list[Any]] = field(default_factory=dict)
    rate: int = RATE

    def digest(self) -> str:
        """Stands for all media: what the model is given of them."""
        import torch

        seen = hashlib.sha256()

        def add(value: Any) -> None:
            if isinstance(value, (list, tuple)):
                for each in value:
                    add(each)
            elif isinstance(value, torch.Tensor):
                seen.update(f"{tuple(value.shape)}".encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
            else:
                seen.update(repr(value).encode())

        for name in sorted(self.tensors):
            seen.update(name.encode())
            add(self.tensors[name])
        return seen.hexdigest()[:16]


class MediaReader:
    """Reads the media of conversations for one model.

    Args:
        processor: the model's own.
        template: the model's, which renders the conversations.
    """

    def __init__(self, processor: Any, template: Template) -> None:
        self.processor, self.template = processor, template
        self._lock = threading.Lock()

    @classmethod
    def find(cls, folder: Path, template: Template, *, trust_remote_code: bool = False) -> MediaReader | None:
        """The reader of the model in a folder; None where it reads text alone, or its processor cannot be loaded."""
        if not any((folder / name).is_file() for name in FILES):
            return None
        processor = _processor_of(folder, trust_remote_code)
        return None if processor is None else cls(processor, template)

    @property
    def rate(self) -> int:
        """Samples a second of the sounds that the model takes."""
        for name in ("feature_extractor", "audio_processor"):
            if (rate := getattr(getattr(self.processor, name, None), "sampling_rate", None)) is not None:
                return int(rate)
        return RATE

    def prompt(self, messages: Any, tools: Any = None, **switches: Any) -> MediaPrompt:
        """The prompt for the next assistant turn.

        Args:
            messages: with media as parts of their contents.
            tools: as in `Template.prompt`.
            switches: as in `Template.prompt`.

        Raises:
            SwiftError: a medium cannot be read, or the model, its template or its processor has no place for it.
        """
        bare, taken = take_apart(messages)
        text = self.template.traced_prompt(bare, tools, **switches)
        for kind in dict.fromkeys(kind for kind, _ in taken):
            if text == self.template.traced_prompt(_without(bare, kind), tools, **switches):
                raise SwiftError(
                    f"the chat template has no place for {WORDS[kind]}",
                    fix="take them out, or give a template that has with --chat_template FILE.jinja",
                )
        opened: dict[str, list[Any]] = {}
        size = 0
        for kind, each in taken:
            opened.setdefault(kind, []).append(self.open(kind, each))
            size += _size(opened[kind][-1])
            if size > MOST_TOGETHER:
                raise SwiftError(
                    f"the media of one request take more than {MOST_TOGETHER >> 20} MiB when they are open",
                    fix="send fewer or smaller ones",
                )
        with self._lock:
            whole, told = self._expand(text, opened)
        ids = self.template.encode_text(whole)
        return MediaPrompt(ids, self.template.encode_text(text), _fitting(told, ids), opened, self.rate)

    def open(self, kind: str, media: Any, access: Access = EVERYTHING) -> Any:
        """A medium as the processor takes it; one that is open stays as it is.

        Args:
            kind: image, video or audio.
            media: as `open_image`, `open_video` and `open_audio` take it.
            access: what may be read.

        Raises:
            SwiftError: it may not be read, or cannot be.
        """
        if kind == "image":
            return open_image(media, access)
        if kind == "audio":
            return open_audio(media, access, self.rate)
        processor = getattr(self.processor, "video_processor", None)
        if processor is None:
            raise SwiftError("this model reads no films", fix="take them out")
        choose = None
        if getattr(processor, "do_sample_frames", False):
            names = processor.valid_kwargs.__annotations__
            choose = partial(processor.sample_frames, **{name: getattr(processor, name, None) for name in names})
        return open_video(media, access, choose)

    def _expand(self, text: Traced, opened: dict[str, list[Any]]) -> tuple[Traced, dict[str, Any]]:
        """The render with what stands for the media in full, and what the processor gives."""
        plain = str.__getitem__(text, slice(None))
        guarded = self._guarded(plain, text.origins)
        processor, capture = copy.copy(self.processor), _Capture(self.processor.tokenizer)
        processor.tokenizer = capture
        given: dict[str, Any] = {}
        if "image" in opened:
            given["images"] = [opened["image"]]
        if "video" in opened:
            given["videos"] = [[frames for frames, _ in opened["video"]]]
            given["do_sample_frames"] = False
            if all(metadata is not None for _, metadata in opened["video"]):
                given["video_metadata"] = [[metadata for _, metadata in opened["video"]]]
        if "audio" in opened:
            given |= {"audio": opened["audio"], "sampling_rate": self.rate}
        try:
            told = processor(text=[guarded], return_tensors="pt", add_special_tokens=False, **given)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, StopIteration) as error:
            raise SwiftError(
                f"the model's processor refuses {' and '.join(map(WORDS.__getitem__, opened))}: {first_line(error)}",
                fix="see the model's page for how many of them it takes, and of what kind",
            ) from error
        return self._aligned(text, guarded, capture.text), dict(told)

    def _guarded(self, text: str, origins: str) -> str:
        """The render, with other characters where contents spell out a control token."""
        for start, stop in self.template.control_text(text, origins):
            text = text[:start] + chr(PRIVATE) * (stop - start) + text[stop:]
        return text

    def _aligned(self, text: Traced, guarded: str, whole: str) -> Traced:
        """The processor's text with the render's origins: it differs where placeholders stood."""
        cuts = [match.span() for match in self._marks.finditer(guarded)]
        edges = [0, *(at for cut in cuts for at in cut), len(guarded)]
        found, at = Traced("", LITERAL), 0
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            piece = guarded[start:stop]
            place = len(whole) - len(piece) if stop == len(guarded) else whole.find(piece, at)
            if place < at or whole[place : place + len(piece)] != piece or (start == 0 and place):
                raise SwiftError("the model's processor changes the text around media", fix="report the model's name")
            found = found + Traced(whole[at:place], LITERAL) + text[start:stop]
            at = place + len(piece)
        return found

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        """The tokens that the processor may write others for."""
        tokenizer = self.processor.tokenizer
        own = {**getattr(tokenizer, "init_kwargs", {}), **vars(self.processor)}
        named = {str(value) for name, value in own.items() if name.endswith("_token") and value}
        marks = sorted(named - _ends(tokenizer), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, marks)) or "(?!)")


def repeated(tensors: dict[str, Any], times: int, model: Any) -> dict[str, Any]:
    """What goes with a prompt, for a batch of so many of the same, where the model is and in its dtype."""
    import torch

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(each) for each in value]
        if isinstance(value, torch.Tensor):
            return value.to(model.device, model.dtype if value.is_floating_point() else None)
        return value

    def repeat(value: Any) -> Any:
        value = placed(value)
        if isinstance(value, torch.Tensor):
            return torch.cat([value] * times)
        return value * times if isinstance(value, list) else value

    # A tokenizer may tell kinds of tokens that the model knows nothing of.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = inspect.signature(inner.forward).parameters
    return {
        name: repeat(value) for name, value in tensors.items() if name in takes or not name.endswith("token_type_ids")
    }


class _Capture:
    """A tokenizer that keeps the text which a processor hands it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.text = tokenizer, ""

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """Tokenise the one text."""
        [self.text] = [text] if isinstance(text, str) else text
        return self._tokenizer(text, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def take_apart(messages: Sequence[Any]) -> tuple[list[Any], Taken]:
    """Messages whose parts only say that a medium stands there, and the media in their order."""
    taken: Taken = []
    bare = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, (list, tuple)):
            parts: list[Any] = []
            for part in content:
                kind = KIND_OF.get(str(part.get("type"))) if isinstance(part, dict) else None
                if kind is not None:
                    taken.append((kind, medium_of(part)))
                parts.append(part if kind is None else {"type": kind})
            message = {**message, "content": parts}
        bare.append(message)
    return bare, taken


def medium_of(part: dict[str, Any]) -> Any:
    """What a part of a content holds: a file, a URL, bytes or an opened medium.

    Raises:
        SwiftError: it holds nothing.
    """
    kind = str(part["type"])
    own = [kind, KIND_OF[kind], f"{KIND_OF[kind]}_url", "url", "path", "data"]
    value = next((part[key] for key in own if part.get(key) is not None), None)
    if isinstance(value, dict) and value.get("data"):
        return f"data:audio/{value.get('format', 'wav')};base64,{value['data']}"
    if (value := value_in(value)) is None:
        raise SwiftError(f"a part of the type {kind} holds nothing", fix=f'write {{"type": "{kind}", "{kind}": …}}')
    return value


def _without(messages: list[Any], kind: str) -> list[Any]:
    return [
        {**message, "content": [part for part in message["content"] if part.get("type") != kind]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _fitting(told: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """The processor's tensors for our ids, which differ from its own where a content spells out a control token."""
    import torch

    theirs = told.pop("input_ids")
    told.pop("attention_mask", None)
    own = theirs[0].tolist()
    if own == ids:
        return told
    for name, tensor in told.items():
        if getattr(tensor, "shape", None) == theirs.shape:
            # Such a tensor tells the kinds of tokens.
            kinds = dict(zip(own, tensor[0].tolist(), strict=True))
            told[name] = torch.tensor([[kinds.get(token, 0) for token in ids]], dtype=tensor.dtype)
    return told


def _ends(tokenizer: Any) -> set[str]:
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
    return {str(getattr(tokenizer, name, None)) for name in names}


def _size(opened: Any) -> int:
    """The bytes of an open medium."""
    if isinstance(opened, tuple):
        opened = opened[0]
    return int(opened.nbytes) if hasattr(opened, "nbytes") else opened.width * opened.height * 3


@lru_cache(4)
def _processor_of(folder: Path, trust_remote_code: bool) -> Any:
    """The processor in a model's folder; None, with a warning, where it cannot be loaded or is for text alone."""
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        logger.warning(
            "%s reads text alone here: its processor cannot be loaded (%s); pip install 'ms-swift[media]'",
            folder,
            first_line(error),
        )
        return None
    parts = ("image_processor", "video_processor", "feature_extractor", "audio_processor")
    return found if hasattr(found, "tokenizer") and any(hasattr(found, part) for part in parts) else None
