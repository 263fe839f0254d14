"""`swift rollout`: token ids for training runs, and weights that change between answers, never within one."""

from __future__ import annotations

import json
import shutil
import threading

import httpx
import pytest
from safetensors.torch import load_file, save, save_file

from swift.cli.main import main
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.serve.rollout import CONFIG, Updates
from swift.serve.server import Server
from swift.serve.service import Limits, Service
from tests.tiny import ask, save_adapter, save_tiny
from tests.waiting import until

CONFIG_12 = RequestConfig(12, temperature=0, logprobs=True)
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models of different weights, and two adapters for the first."""
    place = tmp_path_factory.mktemp("rollout")
    models = [save_tiny(place / f"model{seed}", seed=seed, max_position_embeddings=2048) for seed in (0, 1)]
    return *models, *(save_adapter(place / f"adapter{seed}", models[0], seed) for seed in (1, 2))


@pytest.fixture
def server(folders):
    engine = PtEngine(str(folders[0]), torch_dtype="float32")
    updates = Updates(folders[0].parent)
    limits = Limits(max_request_size=0.01)
    with Server(Service(engine, "tiny", updates=updates, loads_adapters=True, limits=limits)) as server:
        yield server


def fresh(folder, adapter=None):
    """The answer of an engine that was just started."""
    engine = PtEngine(str(folder), adapters=[str(adapter)] if adapter else [], torch_dtype="float32")
    return engine.infer([InferRequest(ask("hi"))], CONFIG_12)[0]


def ids_of(server, model="tiny", **more):
    body = {"model": model, "messages": ask("hi"), "temperature": 0, "max_tokens": 12, "return_token_ids": True, **more}
    found = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["token_ids"]


def tensors(folder):
    return save(load_file(folder / "model.safetensors"))


def test_answers_come_as_token_ids_with_log_probabilities(server, folders):
    wanted = fresh(folders[0])
    asked = [{"messages": ask("hi")}, {"prompt": server.service.engine.encode(InferRequest(ask("hi")))}]
    config = {"max_tokens": 12, "temperature": 0}
    told = httpx.post(f"{server.url}/infer", json={"infer_requests": asked, "request_config": config}).json()
    assert told["version"] == 0 and len(told["responses"]) == 2
    for response in told["responses"]:
        assert response["prompt_token_ids"] == asked[1]["prompt"]
        choice = response["choices"][0]
        assert choice["token_ids"] == wanted.choices[0].token_ids
        assert choice["logprobs"] == pytest.approx([each.logprob for each in wanted.choices[0].logprobs], abs=1e-4)
    assert httpx.get(f"{server.url}/get_world_size").json() == {"world_size": 1}


@pytest.mark.parametrize("way", ["body", "folder"])
def test_new_weights_answer_as_a_fresh_engine_does(server, folders, way):
    before, after = (fresh(folder).choices[0].token_ids for folder in folders[:2])
    assert ids_of(server) == before != after
    if way == "body":
        told = httpx.post(f"{server.url}/update_weights", content=tensors(folders[1]), headers=BYTES)
    else:
        told = httpx.post(f"{server.url}/update_weights", json={"path": str(folders[1])})
    assert (told.status_code, told.json()) == (200, {"version": 1}), told.text
    assert ids_of(server) == after
    assert httpx.post(f"{server.url}/reset_prefix_cache").json() == {"version": 1}


def test_an_update_waits_for_answers_under_way_and_later_ones_wait_for_it(server, folders):
    more = {"messages": ask("hi"), "temperature": 0, "max_tokens": 300, "ignore_eos": True}
    ends = {folder: [] for folder in folders[:2]}
    for folder, kept in ends.items():
        engine = PtEngine(str(folder), torch_dtype="float32")
        config = RequestConfig(300, temperature=0, ignore_eos=True)
        kept += engine.infer([InferRequest(ask("hi"))], config)[0].choices[0].token_ids
    url, order, late = f"{server.url}/v1/chat/completions", [], []

    def update():
        httpx.post(f"{server.url}/update_weights", content=tensors(folders[1]), headers=BYTES, timeout=60)
        order.append("updated")

    def ask_late():
        late.extend(ids_of(server, **more))
        order.append("late")

    threads = [threading.Thread(target=update), threading.Thread(target=ask_late)]
    found = []
    with httpx.stream("POST", url, json={**more, "stream": True, "return_token_ids": True}, timeout=60) as lines:
        for line in lines.iter_lines():
            if line.startswith("data: {"):
                found += json.loads(line[6:])["choices"][0].get("token_ids") or []
            if found and not threads[0].ident:
                threads[0].start()
                until(lambda: server.service.gate._closing)
                threads[1].start()
        order.append("first")
    for thread in threads:
        thread.join()
    assert found == ends[folders[0]] and late == ends[folders[1]]
    assert order.index("late") > order.index("updated")


def test_adapters_are_replaced_in_place(server, folders):
    base, _, one, two = folders
    wanted = {name: fresh(base, folder).choices[0].token_ids for name, folder in (("one", one), ("two", two))}
    assert wanted["one"] != wanted["two"]
    url = f"{server.url}/update_adapter"
    assert httpx.post(url, json={"name": "policy", "path": str(one)}).json() == {"version": 1}
    assert ids_of(server, "policy") == wanted["one"]
    weights = load_file(two / "adapter_model.safetensors")
    data = save(weights, {CONFIG: (two / "adapter_config.json").read_text()})
    assert httpx.post(url, params={"name": "policy"}, content=data, headers=BYTES).json() == {"version": 2}
    assert ids_of(server, "policy") == wanted["two"]
    assert ids_of(server) == fresh(base).choices[0].token_ids

    # Below the adapters, too, the model's weights are named as it names them itself.
    assert httpx.post(f"{server.url}/update_weights", content=tensors(base), headers=BYTES).json() == {"version": 3}
    assert ids_of(server, "policy") == wanted["two"]


def test_what_does_not_fit_changes_nothing(server, folders, tmp_path):
    base, _, one, _ = folders
    before, url = fresh(base).choices[0].token_ids, f"{server.url}/update_weights"
    weights = load_file(base / "model.safetensors")
    name = next(iter(weights))
    wrong = [
        (save({"model.nothing": weights[name], name: weights[name] * 0}), "no weights model.nothing"),
        (save({name: weights[name][:1] * 0}), "is torch.float32"),
        (b"\x08", "no safetensors file"),
        (save({}), "no tensors"),
    ]
    for data, said in wrong:
        told = httpx.post(url, content=data, headers=BYTES)
        assert told.status_code == 400 and said in told.json()["error"]["message"], told.text
    half = shutil.copytree(base, base.parent / "half")
    save_file({name: weights[name]}, half / "model.safetensors", {"format": "pt"})
    for path, status in ((half, 400), (tmp_path, 400), (base.parent / "nowhere", 404), ("/", 400)):
        told = httpx.post(url, json={"path": str(path)}, timeout=60)
        assert told.status_code == status, told.text
    shutil.rmtree(half)
    assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    adapter = f"{server.url}/update_adapter"
    plain = (one / "adapter_model.safetensors").read_bytes()
    told = httpx.post(adapter, params={"name": "x"}, content=plain, headers=BYTES)
    assert told.status_code == 400 and CONFIG in told.json()["error"]["message"]
    told = httpx.post(adapter, json={"name": "tiny", "path": str(one)})
    assert told.status_code == 400 and "one of its own" in told.json()["error"]["message"]
    assert ids_of(server) == before


def test_nobody_changes_the_weights_of_a_plain_server(folders):
    with Server(Service(PtEngine(str(folders[0])), "tiny")) as server:
        assert httpx.post(f"{server.url}/update_weights", content=b"", headers=BYTES).status_code == 404


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allowed_update_path", "/nowhere/at/all"], "--allowed_update_path /nowhere/at/all is no folder"),
        (["--infer_backend", "auto"], "swift rollout cannot change its weights"),
        (["--max_update_size", "0"], "must be more than 0"),
        (["--multi_turn_scheduler", "x"], "does not have yet"),
    ],
)
def test_mistakes_are_told_first(folders, words, said, capsys):
    assert main(["rollout", "--model", str(folders[0]), *words]) == 2
    assert said in capsys.readouterr().err
