"""Adapters of other programs: uploaded as SDK 0.39 does it, checked, trained by the real SDK."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import peft
import pytest
import tinker
import torch
import transformers
from safetensors.torch import load_file, save_file
from tinker import types

KEY = "tml-master-key-of-the-tests"
TOKENS = [5, 9, 14, 33, 60, 7, 21, 80, 41, 3]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


both = pytest.mark.parametrize(
    "engine", ["one engine", "two workers"], indirect=True, scope="module"
)
"""Proves a promise of one engine also of several workers behind one address."""


def key_of(subject: str) -> str:
    expires = int(time.time()) + 600
    signature = hmac.new(KEY.encode(), f"{subject}.{expires}".encode(), hashlib.sha256).hexdigest()
    return f"tml-run.{subject}.{expires}.{signature}"


def client(engine: Any, key: str = KEY) -> httpx2.Client:
    return httpx2.Client(base_url=f"{engine.url}/api/v1/", headers={"X-API-Key": key}, timeout=60)


@pytest.fixture(scope="module")
def trained(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Train an adapter with plain PEFT, and return its folder and the logits that it gives."""
    made: dict[str, Any] = {}

    def train(kind: str = "llama", **settings: Any) -> tuple[Path, torch.Tensor]:
        settings = {"r": 4, "lora_alpha": 16, "target_modules": LINEAR, **settings}
        if (key := repr((kind, settings))) not in made:
            torch.manual_seed(1)
            base = transformers.AutoModelForCausalLM.from_pretrained(models_dir / kind)
            model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=0.02)
            inputs = torch.tensor([TOKENS])
            for _ in range(3):
                model(input_ids=inputs, labels=inputs).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            folder = tmp_path_factory.mktemp("adapter")
            # By default PEFT adds the embeddings where `lm_head` is trained.
            model.save_pretrained(folder, save_embedding_layers=False)
            with torch.no_grad():
                made[key] = folder, model.eval()(input_ids=inputs).logits[0]
        found: tuple[Path, torch.Tensor] = made[key]
        return found

    return train


def start(http: httpx2.Client, kind: str = "llama", rank: int = 4, **flags: bool) -> Any:
    flags = {"train_mlp": True, "train_attn": True, "train_unembed": False, **flags}
    body = {"base_model": f"tiny/{kind}", "lora_config": {"rank": rank, **flags}}
    return http.post("external_weights_upload_start", json=body)


def upload(http: httpx2.Client, folder: Path, *args: Any, **flags: bool) -> Any:
    """Send the files in FOLDER, and return the response of the last call."""
    started = start(http, *args, **flags).raise_for_status().json()
    assert sorted(started["urls"]) == [CONFIG, WEIGHTS]
    for file, url in started["urls"].items():
        # Without a key: the address is signed.
        assert httpx2.put(url, content=(folder / file).read_bytes()).status_code == 204
    body = {"upload_id": started["upload_id"]}
    return http.post("external_weights_upload_finish", json=body)


def datum(tokens: list[int]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(
                data=tokens[1:], dtype="int64", shape=[len(tokens) - 1]
            ),
            "weights": types.TensorData(
                data=[1.0] * (len(tokens) - 1), dtype="float32", shape=[len(tokens) - 1]
            ),
        },
    )


@pytest.mark.parametrize(
    ("kind", "settings", "flags"),
    [
        ("llama", {}, {}),
        ("qwen3", {"lora_alpha": 7, "use_rslora": True, "target_modules": "all-linear"}, {}),
        # Layers that the adapter was not trained on are new ones.
        ("qwen3_moe", {"r": 3, "target_modules": ["q_proj", "v_proj"]}, {"train_mlp": False}),
        ("llama", {"target_modules": [*LINEAR, "lm_head"]}, {"train_unembed": True}),
    ],
)
def test_a_run_starts_from_the_logits_that_peft_gives(
    engine: Any, trained: Callable[..., Any], kind: str, settings: Any, flags: Any
) -> None:
    folder, logits = trained(kind, **settings)

    path = upload(client(engine), folder, kind, settings.get("r", 4), **flags).json()["tinker_path"]
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    training = service.create_training_client_from_state(path).result()
    output = training.forward_backward([datum(TOKENS)], "cross_entropy").result()
    step = training.optim_step(types.AdamParams(learning_rate=0.01)).result()

    expected = torch.log_softmax(logits.float(), -1)[:-1].gather(
        1, torch.tensor(TOKENS[1:])[:, None]
    )
    found = torch.tensor(output.loss_fn_outputs[0]["logprobs"].data)
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-4, atol=1e-4)
    assert step.metrics is not None
    assert step.metrics["grad_norm"] > 0
    assert training.get_info().lora_rank == settings.get("r", 4)
    sampler = service.create_sampling_client(model_path=path).result()
    prompt = types.ModelInput.from_ints(TOKENS)
    sampled = sampler.compute_logprobs(prompt).result()
    torch.testing.assert_close(torch.tensor(sampled[1:]), expected[:, 0], rtol=1e-4, atol=1e-4)


def edit(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
        change(config, tensors)
        (folder / CONFIG).write_text(json.dumps(config))
        save_file(tensors, folder / WEIGHTS)

    return apply


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dora": (edit(lambda c, t: c.update(use_dora=True)), "uses `use_dora`, which this engine"),
    "bias": (edit(lambda c, t: c.update(bias="all")), "uses `bias`"),
    "pissa": (edit(lambda c, t: c.update(init_lora_weights="pissa")), "changes the base weights"),
    "rank": (edit(lambda c, t: c.update(r=8)), "has the rank 8, and 4 was requested"),
    "alpha": (
        edit(lambda c, t: c.update(lora_alpha=0)),
        "`lora_alpha` in adapter_config.json must",
    ),
    "base": (
        edit(lambda c, t: c.update(base_model_name_or_path="Qwen/Qwen3-8B")),
        "was trained on `Qwen/Qwen3-8B`, and this run is on `tiny/llama`",
    ),
    "no LoRA": (edit(lambda c, t: c.update(peft_type="LOHA")), "not that of a LoRA adapter"),
    "missing": (edit(lambda c, t: t.pop(FIRST)), "lacks `model.layers.0.self_attn.q_proj.lora_A"),
    "magnitudes": (
        edit(lambda c, t: t.update({FIRST.replace("lora_A.weight", "x"): torch.ones(2)})),
        "which is not a LoRA factor of a layer",
    ),
    "embeddings": (
        edit(lambda c, t: t.update({"base_model.model.model.embed_tokens.weight": torch.ones(2)})),
        "save it with `save_embedding_layers=False`",
    ),
    "other layer": (
        edit(lambda c, t: t.update({FIRST.replace("layers.0", "layers.9"): torch.ones(4, 32)})),
        "layers.9.self_attn.q_proj.lora_A.weight`, which is not a LoRA factor of a layer",
    ),
    "shape": (
        edit(lambda c, t: t.update({FIRST: torch.ones(4, 48)})),
        "has the shape [4, 48], and",
    ),
    "not finite": (edit(lambda c, t: t[FIRST].fill_(float("nan"))), "not all finite numbers"),
    "integers": (edit(lambda c, t: t.update({FIRST: torch.ones(4, 32).int()})), "torch.int32"),
    "no JSON": (
        lambda folder: (folder / CONFIG).write_text("{"),
        "adapter_config.json is not JSON",
    ),
    "no tensors": (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 99), "not a readable file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_adapter_that_does_not_fit_is_refused_in_words(
    engine: Any, trained: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    change, words = WRONG[name]
    for file in (CONFIG, WEIGHTS):
        (tmp_path / file).write_bytes((trained()[0] / file).read_bytes())
    change(tmp_path)

    with client(engine, key_of(f"wrong-{name.replace(' ', '-')}")) as http:
        refused = upload(http, tmp_path)

        assert refused.status_code == 400
        assert words in refused.json()["detail"]
        assert http.get("checkpoints").json()["checkpoints"] == []


@both
def test_only_the_holder_of_a_signed_address_sends_files_and_only_small_enough_ones(
    engine: Any, trained: Callable[..., Any]
) -> None:
    folder, _ = trained()
    with client(engine, key_of("sender")) as http, client(engine, key_of("other")) as other:
        started = start(http).json()
        finish = {"upload_id": started["upload_id"]}
        url = started["urls"][WEIGHTS]

        unsigned = http.put(url.partition("?")[0], content=b"x")
        elsewhere = http.put(url.replace(WEIGHTS, "other.safetensors"), content=b"x")
        above = http.put(url.replace(f"/{WEIGHTS}", f"/..%2F{WEIGHTS}"), content=b"x")
        large = httpx2.put(url, content=(b"x" * 2**20 for _ in range(80)))
        early = http.post("external_weights_upload_finish", json=finish)
        for file, address in started["urls"].items():
            httpx2.put(address, content=(folder / file).read_bytes()).raise_for_status()
        foreign = other.post("external_weights_upload_finish", json=finish)
        done = [http.post("external_weights_upload_finish", json=finish).json() for _ in range(2)]
        late = httpx2.put(url, content=b"x")

        assert [unsigned.status_code, elsewhere.status_code] == [401, 401]
        assert above.status_code in (401, 404)
        assert (large.status_code, early.status_code, foreign.status_code) == (400, 400, 404)
        assert "adapter_config.json is missing" in early.json()["detail"]
        path = f"tinker://{started['upload_id']}/external_weights/adapter"
        assert [each["tinker_path"] for each in done] == [path, path]
        assert late.status_code == 404
        assert not list((engine.data_dir / "uploads").glob(f"*{started['upload_id']}*"))
        for wrong, words in (
            ({"rank": 999}, "rank must be from 1"),
            (
                {"rank": 4, "train_mlp": False, "train_attn": False, "train_unembed": False},
                "nothing to train",
            ),
        ):
            body = {"base_model": "tiny/llama", "lora_config": wrong}
            refused = http.post("external_weights_upload_start", json=body)
            assert refused.status_code == 400
            assert words in refused.json()["detail"]
        statuses = [start(http).status_code for _ in range(17)]
        assert statuses[-1] == 429
        assert statuses[:15] == [200] * 15


def test_a_key_of_the_owner_opens_weights_for_the_run_of_another(
    engine: Any, trained: Callable[..., Any]
) -> None:
    with client(engine, key_of("giver")) as http:
        path = upload(http, trained()[0]).json()["tinker_path"]
    service = tinker.ServiceClient(base_url=engine.url, api_key=key_of("taker"))

    with pytest.raises(tinker.NotFoundError):
        service.create_training_client_from_state(path).result()
    token = key_of("giver")
    run = service.create_training_client_from_state(path, weights_access_token=token).result()

    saved = run.save_state("mine").result().path
    assert saved.startswith(f"tinker://{run.model_id}/weights/")
    files = [each for each in engine.data_dir.glob("engine.sqlite3*") if each.is_file()]
    assert not any(token.encode() in each.read_bytes() for each in files)


@both
def test_checkpoints_are_searched_by_model_kind_and_metadata_page_by_page(
    engine: Any, trained: Callable[..., Any]
) -> None:
    key = key_of("searcher")
    service = tinker.ServiceClient(base_url=engine.url, api_key=key)
    run = service.create_lora_training_client("tiny/qwen3", rank=2).result()
    for number in range(3):
        run.save_state(f"step-{number}", user_metadata={"part": str(number % 2)}).result()
    with client(engine, key) as http:
        uploaded = upload(http, trained()[0]).json()["tinker_path"]

        def search(**wanted: Any) -> Any:
            return http.post("checkpoints/search", json=wanted)

        first = search(limit=3).json()
        second = search(limit=3, cursor=first["next_cursor"]).json()

        names = [c["tinker_path"].rpartition("/")[2] for c in first["checkpoints"]]
        assert names == ["adapter", "step-2", "step-1"]
        assert [c["checkpoint_id"] for c in second["checkpoints"]] == ["weights/step-0"]
        assert second["next_cursor"] is None
        found = search(base_models=["tiny/llama"]).json()["checkpoints"]
        assert [c["tinker_path"] for c in found] == [uploaded]
        assert found[0]["base_model"] == "tiny/llama"
        assert len(search(user_metadata={"part": "0"}).json()["checkpoints"]) == 2
        assert len(search(checkpoint_type="training").json()["checkpoints"]) == 3
        assert search(base_models=[]).json()["checkpoints"] == []
        assert search(owner={"type": "user", "owner_urns": ["urn:x"]}).json()["checkpoints"] == []
        assert search(project_ids=["p"]).status_code == search(limit=0).status_code == 400


def test_an_upload_survives_a_kill_of_the_engine(
    start_engine: Callable[..., Any], trained: Callable[..., Any]
) -> None:
    engine = start_engine()
    with client(engine) as http:
        started = start(http).json()
        for file, url in started["urls"].items():
            httpx2.put(url, content=(trained()[0] / file).read_bytes()).raise_for_status()
        engine.kill()
        engine.start()

        body = {"upload_id": started["upload_id"]}
        done = http.post("external_weights_upload_finish", json=body)

        assert done.json()["tinker_path"].endswith("/external_weights/adapter")
