"""Choosing the next token: the model's generation config, a request's parameters over it, and seeds of its own."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from transformers import LogitsProcessor
from transformers.generation import logits_process as warpers

from swift.engines.base import Logprob, RequestConfig

NEUTRAL: dict[str, float] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Each parameter of sampling and the value at which it does nothing, in the order in which they apply."""

OF_GENERATE = (
    "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "sequence_bias", "exponential_decay_length_penalty", "min_length", "min_new_tokens",
    "encoder_repetition_penalty", "guidance_scale", "watermarking_config", "prompt_lookup_num_tokens",
)  # fmt: skip
"""What a generation config may ask for that `generate` alone does."""


def sampling_of(defaults: dict[str, Any], config: RequestConfig) -> dict[str, float] | None:
    """The parameters of sampling that do something; None where the answer is greedy.

    Args:
        defaults: what the model's generation config sets.
        config: the request's parameters, which go over it.
    """
    given = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    given = {name: value for name, value in given.items() if value is not None}
    if config.num_beams > 1 or config.temperature == 0:
        return None
    if not given and not defaults.get("do_sample"):
        return None
    values = {name: defaults[name] for name in NEUTRAL if defaults.get(name) is not None} | given
    return {name: value for name, value in values.items() if value != NEUTRAL[name]}


def build_warpers(sampling: dict[str, float]) -> list[LogitsProcessor]:
    """Transformers' own warpers for these parameters, in its order."""
    makers = {
        "temperature": lambda value: warpers.TemperatureLogitsWarper(float(value)),
        "top_k": lambda value: warpers.TopKLogitsWarper(int(value)),
        "top_p": lambda value: warpers.TopPLogitsWarper(float(value)),
        "min_p": lambda value: warpers.MinPLogitsWarper(float(value)),
        "typical_p": lambda value: warpers.TypicalLogitsWarper(float(value)),
        "epsilon_cutoff": lambda value: warpers.EpsilonLogitsWarper(float(value)),
        "eta_cutoff": lambda value: warpers.EtaLogitsWarper(float(value)),
    }
    return [makers[name](sampling[name]) for name in NEUTRAL if name in sampling]


def row_seed(seed: int | None, prompt: Sequence[int], choice: int) -> int:
    """The seed of one answer: it depends on what is asked and not on what else is in the batch."""
    if seed is None:
        return secrets.randbits(63)
    text = f"{seed}:{choice}:{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Guide(Protocol):
    """What an answer must be."""

    def allowed(self) -> torch.Tensor:
        """bool[vocabulary]: the tokens that may come next."""
        ...

    def take(self, token: int) -> None:
        """The token that came."""
        ...


class Picker:
    """Chooses the tokens of one answer.

    Args:
        prompt: the prompt's tokens.
        defaults: what the model's generation config sets.
        config: the request's parameters, which go over it.
        seed: draws of this answer come from it alone.
        ends: tokens that end the answer.
        guide: what the answer must be.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        defaults: dict[str, Any],
        config: RequestConfig,
        seed: int,
        ends: Collection[int] = (),
        guide: Guide | None = None,
    ) -> None:
        self.sampling = sampling_of(defaults, config)
        self.guide = guide
        self.top = config.top_logprobs if config.logprobs or config.top_logprobs else None
        self._generator = torch.Generator().manual_seed(seed)
        self._config, self._ends = config, sorted(ends)
        own = config.repetition_penalty
        self._repetition = own if own is not None else defaults.get("repetition_penalty") or 1.0
        self._seen = set(prompt) if self._repetition != 1 else set()
        self._counts: Counter[int] = Counter()
        self._taken = 0

    @property
    def plain(self) -> bool:
        """Whether the logits are taken as they are."""
        config = self._config
        penalised = self._repetition != 1 or config.presence_penalty or config.frequency_penalty
        early = self._taken < config.min_tokens
        return not (penalised or config.logit_bias or early or self.guide is not None)

    def adjust(self, scores: torch.Tensor) -> torch.Tensor:
        """float32[vocabulary] -> the same with penalties, bias and what cannot come next."""
        config, scores = self._config, scores.clone()
        if self._repetition != 1 and self._seen:
            seen = torch.tensor(sorted(self._seen), device=scores.device)
            values = scores[seen]
            # Keskar et al., 2019 (CTRL), section 4.1; a negative logit is multiplied, so that it falls as well.
            scores[seen] = torch.where(values < 0, values * self._repetition, values / self._repetition)
        if self._counts and (config.presence_penalty or config.frequency_penalty):
            places = torch.tensor(list(self._counts), device=scores.device)
            counts = torch.tensor(list(self._counts.values()), device=scores.device, dtype=scores.dtype)
            scores[places] -= config.presence_penalty + config.frequency_penalty * counts
        for token, bias in config.logit_bias.items():
            if 0 <= token < scores.shape[-1]:
                scores[token] += bias
        allowed = self.guide.allowed().to(scores.device) if self.guide is not None else None
        ends = [token for token in self._ends if token < len(scores)]
        # A structured answer that is whole can only end.
        whole = allowed is not None and bool(allowed.sum() == allowed[ends].sum())
        if self._taken < config.min_tokens and ends and not whole:
            scores[ends] = float("-inf")
        if allowed is not None:
            # A model's logits may be wider than its tokenizer: the rest stands for no text.
            scores[: len(allowed)].masked_fill_(~allowed[: len(scores)], float("-inf"))
            scores[len(allowed) :] = float("-inf")
        return scores

    def draw(self) -> torch.Tensor:
        """float32[1] in [0, 1), the answer's next draw."""
        return torch.rand(1, generator=self._generator)

    def take(self, token: int) -> None:
        """The token that was chosen."""
        self._taken += 1
        if self._repetition != 1:
            self._seen.add(token)
        if self._config.presence_penalty or self._config.frequency_penalty:
            self._counts[token] += 1
        if self.guide is not None:
            self.guide.take(token)


def pick(logits: torch.Tensor, pickers: Sequence[Picker]) -> tuple[list[int], list[Logprob | None]]:
    """The next token of each answer, and its log-probability where that is asked for.

    Each row is drawn with a generator of its own, so that an answer does not depend on its neighbours.

    Args:
        logits: [rows, vocabulary], a row for each picker.
    """
    logits = logits.float()
    scores = logits
    if changed := [row for row, picker in enumerate(pickers) if not picker.plain]:
        scores = logits.clone()
        for row in changed:
            scores[row] = pickers[row].adjust(logits[row])
    chosen = scores.argmax(dim=-1)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, picker in enumerate(pickers):
        if picker.sampling is not None:
            groups.setdefault(tuple(sorted(picker.sampling.items())), []).append(row)
    for values, rows in groups.items():
        drawn = _draw(scores[rows], build_warpers(dict(values)), [pickers[row] for row in rows])
        chosen[torch.tensor(rows, device=chosen.device)] = drawn
    tokens = chosen.tolist()
    logprobs = _logprobs(logits, tokens, pickers)
    for picker, token in zip(pickers, tokens, strict=True):
        picker.take(token)
    return tokens, logprobs


def _draw(scores: torch.Tensor, warpers_: list[LogitsProcessor], pickers: Sequence[Picker]) -> torch.Tensor:
    """[rows, vocabulary] -> int64[rows], drawn from the warped distribution by inversion."""
    for warper in warpers_:
        scores = warper(None, scores)
    cumulative = scores.softmax(dim=-1).cumsum(dim=-1)
    draws = torch.cat([picker.draw() for picker in pickers]).to(cumulative.device)
    # The first place whose cumulative probability exceeds the draw: a token of probability 0 is never taken.
    points = draws[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points, right=True).clamp_(max=scores.shape[-1] - 1)[:, 0]


def _logprobs(logits: torch.Tensor, tokens: list[int], pickers: Sequence[Picker]) -> list[Logprob | None]:
    found: list[Logprob | None] = [None] * len(pickers)
    for row, picker in enumerate(pickers):
        if picker.top is None:
            continue
        logps = logits[row].log_softmax(dim=-1)
        likeliest = logps.topk(min(picker.top, len(logps)))
        top = list(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        found[row] = Logprob(tokens[row], float(logps[tokens[row]]), top)
    return found


class PickingProcessor(LogitsProcessor):
    """Leaves each row of a `generate` that runs greedily only the token that its picker chooses.

    `generate` itself would draw the whole batch from one generator.
    """

    def __init__(self, pickers: Sequence[Picker], told: Callable[[list[Logprob | None]], None]) -> None:
        self._pickers, self._told = pickers, told

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Logits [rows, vocabulary] -> 0 for each row's chosen token and -inf elsewhere."""
        tokens, logprobs = pick(scores, self._pickers)
        self._told(logprobs)
        chosen = torch.tensor(tokens, device=scores.device)[:, None]
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)


def greedy_arguments(config: RequestConfig, *, max_new_tokens: int, stop_ids: list[int], pad_id: int) -> dict[str, Any]:
    """Arguments for a `generate` that only takes the likeliest token; the rest is the model's generation config.

    They are arguments and no GenerationConfig: transformers 4 takes a value of the latter that is a default for one
    that nobody set, and samples after all where the model's own config does.
    """
    arguments: dict[str, Any] = {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "max_new_tokens": max_new_tokens,
        "num_beams": config.num_beams,
        "num_return_sequences": 1,
        "pad_token_id": pad_id,
        "return_dict_in_generate": False,
        "use_cache": True,
    }
    if stop_ids:
        arguments["eos_token_id"] = stop_ids
    if config.num_beams == 1:
        arguments["repetition_penalty"] = 1.0  # the picker's
    elif config.repetition_penalty is not None:
        arguments["repetition_penalty"] = config.repetition_penalty
    return arguments
