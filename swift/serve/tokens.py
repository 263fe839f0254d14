"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

from swift.engines.base import InferRequest
from swift.engines.detokenize import decode
from swift.serve.chat import messages_of
from swift.serve.errors import ApiError
from swift.serve.protocol import DetokenizeRequest, TokenizeRequest
from swift.serve.service import Service
from swift.serve.tools import plain_tools


async def tokenize(service: Service, body: TokenizeRequest) -> dict[str, Any]:
    """The tokens of a text, or of the prompt that a conversation makes.

    Raises:
        ApiError: the template refuses the conversation, or the engine keeps its tokens to itself.
    """
    engine: Any = _with_tokenizer(service)
    service.adapter_of(body.model)
    if body.messages is not None:
        request = InferRequest(
            messages_of(body.messages, reads_media=service.reads_media),
            plain_tools(body.tools),
            chat_template_kwargs=body.chat_template_kwargs or {},
        )
        ids = await service.prompt_of(request)
    else:
        ids = await service.in_turn(_encode, engine.tokenizer, body.prompt, body.add_special_tokens)
    found = {"count": len(ids), "max_model_len": engine.context, "tokens": ids}
    return found | ({"token_strs": engine.tokenizer.convert_ids_to_tokens(ids)} if body.return_token_strs else {})


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special))


async def detokenize(service: Service, body: DetokenizeRequest) -> dict[str, Any]:
    """The text of tokens.

    Raises:
        ApiError: an id is none of the tokenizer's.
    """
    tokenizer = _with_tokenizer(service).tokenizer
    service.adapter_of(body.model)
    most = len(tokenizer)
    if wrong := [token for token in body.tokens if not 0 <= token < most]:
        raise ApiError(400, f"{wrong[0]} is no token id: there are {most}", param="tokens")
    return {"prompt": await service.in_turn(decode, tokenizer, body.tokens)}


def _with_tokenizer(service: Service) -> Any:
    if getattr(service.engine, "tokenizer", None) is None:
        raise ApiError(400, "the engine behind this server does not tell its tokens")
    return service.engine
