"""A model's tokenizer by the model's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    model: str,
    *,
    revision: str | None = None,
    use_hf: bool | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The transformers tokenizer of a model, without its weights: `load_tokenizer("demo")`.

    Raises:
        SwiftError: there is no such model, or it has no tokenizer.
    """
    from swift.hub import resolve
    from swift.models.load import load_tokenizer as from_folder

    found = resolve(model, revision=revision, use_hf=use_hf, token=token, download_weights=False)
    return from_folder(found.path, trust_remote_code=trust_remote_code)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills rows of a batch: the tokenizer's, else its end of sequence."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad or 0)
