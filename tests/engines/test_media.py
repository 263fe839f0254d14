"""Pictures, films and sounds in requests: ids, tensors and answers are those of the model's own processor."""

from __future__ import annotations

import base64
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.engines import InferRequest, RequestConfig
from swift.engines.transformers import PtEngine
from swift.errors import SwiftError
from tests.tiny import ask, save_tiny
from tests.tiny_media import film, picture, png, save_reader, wav

pytest.importorskip("torchvision")
GREEDY = RequestConfig(max_tokens=8, temperature=0, ignore_eos=True)
PICTURES = ("qwen2_vl", "smolvlm", "gemma3", "llava")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_reader(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return of


@pytest.fixture(scope="module")
def engines(folders: Any) -> Any:
    made: dict[str, PtEngine] = {}

    def of(kind: str) -> PtEngine:
        if kind not in made:
            made[kind] = PtEngine(str(folders(kind)), torch_dtype="float32")
        return made[kind]

    return of


def parts(*given: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": x} if isinstance(x, str) else x for x in given]}]


def image(value: Any) -> dict[str, Any]:
    return {"type": "image", "image": value}


def reference(engine: PtEngine, messages: list[Any], **more: Any) -> tuple[list[int], list[int]]:
    """The prompt and the greedy answer by transformers alone."""
    processor = engine.reader.processor
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", **more
    )
    if "token_type_ids" not in inspect.signature(engine.model.forward).parameters:
        # Transformers 4 has a general tokenizer tell them.
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        out = engine.model.generate(**inputs, do_sample=False, max_new_tokens=8, eos_token_id=-1, pad_token_id=0)
    return inputs["input_ids"][0].tolist(), out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_read_as_transformers_reads_it(engines: Any, kind: str) -> None:
    engine, shown = engines(kind), picture()
    messages = parts(image(shown), "what is the colour?")
    ids, answer = reference(engine, messages)
    [response] = engine.infer([InferRequest(messages)], GREEDY)
    assert engine.encode(InferRequest(messages)) == ids
    assert response.choices[0].token_ids == answer
    assert response.usage.prompt_tokens == len(ids)
    [other] = engine.infer([InferRequest(parts(image(picture(1)), "what is the colour?"))], GREEDY)
    assert other.choices[0].token_ids != answer


@pytest.mark.parametrize("kind", ("qwen2_vl", "smolvlm", "gemma3"))
def test_several_pictures_in_several_turns(engines: Any, kind: str) -> None:
    engine = engines(kind)
    messages = [
        *parts("the sky ", image(picture(1)), image(picture(2, 40, 80)), " is"),
        {"role": "assistant", "content": [{"type": "text", "text": "Paris"}]},
        *parts(image(picture(3)), "?"),
    ]
    ids, answer = reference(engine, messages)
    [response] = engine.infer([InferRequest(messages)], GREEDY)
    assert engine.encode(InferRequest(messages)) == ids
    assert response.choices[0].token_ids == answer


@pytest.mark.parametrize("kind", ("smolvlm", "qwen2_vl"))
def test_text_alone(engines: Any, kind: str) -> None:
    engine = engines(kind)
    ids, answer = reference(engine, parts("what is the colour of the sky?"))
    [response] = engine.infer([InferRequest(ask("what is the colour of the sky?"))], GREEDY)
    assert engine.encode(InferRequest(ask("what is the colour of the sky?"))) == ids
    assert response.choices[0].token_ids == answer


def test_every_way_to_give_a_picture(engines: Any, tmp_path: Path) -> None:
    engine, shown = engines("qwen2_vl"), picture()
    file = tmp_path / "one.png"
    shown.save(file)
    url = "data:image/png;base64," + base64.b64encode(png(shown)).decode()
    wanted = engine.infer([InferRequest(parts(image(shown), "x"))], GREEDY)[0].choices[0].token_ids
    for value in (str(file), file, f"file://{file}", url, png(shown), {"bytes": png(shown)}, {"path": str(file)}):
        one = InferRequest(parts(image(value), "x"))
        two = InferRequest(ask("<image>x"), images=[value])
        three = InferRequest(ask("x"), images=[value])
        for response in engine.infer([one, two, three], GREEDY):
            assert response.choices[0].token_ids == wanted
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"type": "input_image", "image_url": url}):
        [response] = engine.infer([InferRequest(parts(part, "x"))], GREEDY)
        assert response.choices[0].token_ids == wanted


def test_text_that_spells_out_a_placeholder_stays_text(engines: Any) -> None:
    engine = engines("qwen2_vl")
    tokenizer = engine.tokenizer
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    plain = engine.encode(InferRequest(parts(image(picture()), "x")))
    ids = engine.encode(InferRequest(parts("say <|image_pad|> twice", image(picture()), " and <|video_pad|>")))
    assert ids.count(pad) == plain.count(pad)
    assert tokenizer.convert_tokens_to_ids("<|video_pad|>") not in ids
    assert "say <|image_pad|> twice" in tokenizer.decode(ids)
    [response] = engine.infer([InferRequest(parts("a <|image_pad|>", image(picture())))], GREEDY)
    assert response.choices[0].token_ids


def test_several_choices_and_requests_at_once(engines: Any) -> None:
    engine = engines("smolvlm")
    requests = [InferRequest(parts(image(picture(seed)), "x")) for seed in range(3)] + [InferRequest(ask("x"))]
    alone = [engine.infer([request], GREEDY)[0].choices[0].token_ids for request in requests]
    together = engine.infer(requests, GREEDY)
    assert [response.choices[0].token_ids for response in together] == alone
    [sampled] = engine.infer(requests[:1], RequestConfig(max_tokens=8, temperature=1.0, seed=1, n=3, ignore_eos=True))
    assert len({tuple(choice.token_ids) for choice in sampled.choices}) > 1
    again = [delta.response for delta in engine.stream(requests[0], GREEDY)][-1]
    assert again is not None and again.choices[0].token_ids == alone[0]


def test_a_sound(engines: Any, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    engine = engines("qwen2_audio")
    file = tmp_path / "tone.wav"
    file.write_bytes(wav())
    samples, _ = soundfile.read(file, dtype="float32")
    ids, answer = reference(engine, parts({"type": "audio", "audio": samples}, "what is it?"))
    given = {"data": base64.b64encode(wav()).decode(), "format": "wav"}
    for part in ({"type": "audio", "audio": str(file)}, {"type": "input_audio", "input_audio": given}):
        [response] = engine.infer([InferRequest(parts(part, "what is it?"))], GREEDY)
        assert engine.encode(InferRequest(parts(part, "what is it?"))) == ids
        assert response.choices[0].token_ids == answer
    half = engine.encode(InferRequest(ask("what is it?"), audios=[wav(rate=8000)]))
    assert len(half) == len(ids)


def test_a_film(engines: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    engine = engines("qwen2_vl")
    file = film(tmp_path / "film.mp4")
    ids = engine.encode(InferRequest(ask("what?"), videos=[str(file)]))
    assert ids.count(engine.tokenizer.convert_tokens_to_ids("<|video_pad|>")) > 1
    [one] = engine.infer([InferRequest(ask("what?"), videos=[str(file)])], GREEDY)
    webm = engine.encode(InferRequest(ask("what?"), videos=[film(tmp_path / "film.webm").read_bytes()]))
    assert webm.count(engine.tokenizer.convert_tokens_to_ids("<|video_pad|>")) > 1
    [two] = engine.infer([InferRequest(parts({"type": "video", "video": file.read_bytes()}, "what?"))], GREEDY)
    assert one.choices[0].token_ids == two.choices[0].token_ids
    frames = [picture(seed) for seed in range(4)]
    [three] = engine.infer([InferRequest(parts({"type": "video", "video": frames}, "what?"))], GREEDY)
    assert three.choices[0].token_ids


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (parts(image(b"no picture"), "x"), "a picture cannot be read: the format is unknown"),
        (parts(image("/nowhere/one.png"), "x"), "there is no file /nowhere/one.png"),
        (parts({"type": "image"}, "x"), "a part of the type image holds nothing"),
        (parts({"type": "audio", "audio": wav()}, "x"), "the chat template has no place for sounds"),
        (parts(image(picture()), {"type": "audio", "audio": wav()}, "x"), "the chat template has no place for sounds"),
        (parts(image("data:image/png;base64,%%"), "x"), "a data URL holds broken base64"),
        (parts(image("ftp://host/one.png"), "x"), "has the scheme ftp"),
    ],
)
def test_what_cannot_be_read(engines: Any, messages: list[Any], told: str) -> None:
    with pytest.raises(SwiftError, match=told.replace("(", r"\(")):
        engines("qwen2_vl").infer([InferRequest(messages)], GREEDY)


def test_a_model_that_reads_text_alone(tmp_path: Path) -> None:
    engine = PtEngine(str(save_tiny(tmp_path)), torch_dtype="float32")
    assert not engine.reads_media
    with pytest.raises(SwiftError, match="this model reads text alone, and there are images"):
        engine.infer([InferRequest(ask("x"), images=[picture()])], GREEDY)


def test_rows_with_pictures_from_the_command_line(folders: Any, tmp_path: Path, engines: Any) -> None:
    from swift.cli.main import main

    shown = [picture(seed) for seed in range(2)]
    rows = []
    for number, each in enumerate(shown):
        each.save(tmp_path / f"{number}.png")
        rows.append({"messages": ask("<image>what is it?"), "images": [str(tmp_path / f"{number}.png")]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["infer", "--model", str(folders("smolvlm")), "--torch_dtype", "float32", "--temperature", "0"]
    words += ["--val_dataset", str(tmp_path / "rows.jsonl"), "--result_path", str(tmp_path / "out.jsonl")]
    assert main([*words, "--max_new_tokens", "8"]) == 0
    told = [json.loads(line)["response"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    config = RequestConfig(max_tokens=8, temperature=0)
    for each, response in zip(shown, told, strict=True):
        [wanted] = engines("smolvlm").infer([InferRequest(ask("<image>what is it?"), images=[each])], config)
        assert response == wanted.choices[0].message.content
    assert told[0] != told[1]
