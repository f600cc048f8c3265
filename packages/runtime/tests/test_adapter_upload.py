"""Adapters from outside: sent by the calls of SDK 0.39, or without them to our engine only."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dreadnode_runtime.backend import adapter_upload
from dreadnode_runtime.backend.adapter_upload import AdapterShape, shape_of, upload
from dreadnode_runtime.errors import JobFailed
from safetensors.torch import save_file

LAYER = "base_model.model.model.layers.0"


class NewerSdk:
    """The calls of SDK 0.39, and what was sent by them; it wants no files."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def external_weights_upload_start(self, *, base_model: str, lora_config: Any) -> Any:
        self.sent.append((base_model, lora_config.rank, lora_config.train_unembed))
        return SimpleNamespace(upload_id="u1", urls={})

    async def external_weights_upload_finish(self, upload_id: str) -> Any:
        self.sent.append(upload_id)
        return SimpleNamespace(tinker_path="tinker://x/external_weights/y")

    async def set_checkpoint_ttl_from_tinker_path(self, path: str, seconds: int) -> None:
        self.sent.append((path, seconds))


def use(monkeypatch: pytest.MonkeyPatch, sdk: object) -> None:
    async def rest_client() -> object:
        return sdk

    monkeypatch.setattr(adapter_upload, "rest_client", rest_client)


def write(folder: Path, **config: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    names = [f"{LAYER}.self_attn.q_proj.lora_{x}.weight" for x in "AB"]
    save_file({name: torch.ones(2, 2) for name in names}, folder / "adapter_model.safetensors")


async def test_an_earlier_sdk_and_a_hosted_engine_take_no_adapter_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, object())

    with pytest.raises(JobFailed, match=r"takes no adapters from outside .* SDK 0\.39 can upload"):
        await upload(tmp_path, "Qwen/Qwen3-8B", 3600, own_engine=False)


async def test_a_newer_sdk_sends_the_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sdk = NewerSdk()
    use(monkeypatch, sdk)
    write(tmp_path)

    done = await upload(tmp_path, "Qwen/Qwen3-8B", 3600, own_engine=False)

    assert (done.path, done.shape) == (
        "tinker://x/external_weights/y",
        AdapterShape(4, train_mlp=False, train_attn=True, train_unembed=False),
    )
    assert sdk.sent == [("Qwen/Qwen3-8B", 4, False), "u1", (done.path, 3600)]


@pytest.mark.parametrize("broken", ["no folder", "LOHA", "no rank"])
async def test_a_folder_without_a_lora_adapter_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    use(monkeypatch, NewerSdk())
    if broken != "no folder":
        write(tmp_path, **({"peft_type": "LOHA"} if broken == "LOHA" else {"r": "4"}))

    with pytest.raises(JobFailed, match=r"no readable adapter of PEFT|those of a LoRA adapter"):
        await upload(tmp_path, "Qwen/Qwen3-8B", 3600, own_engine=True)


@pytest.mark.parametrize(
    ("layers", "trained"),
    [
        (["self_attn.q_proj", "mlp.down_proj"], (True, True, False)),
        (["mlp.experts.w1", "unembed_tokens"], (True, False, True)),
        (["linear_attn.out_proj"], (False, True, False)),
    ],
)
def test_the_names_of_layers_say_what_an_adapter_trains(
    layers: list[str], trained: tuple[bool, bool, bool]
) -> None:
    names = [f"{LAYER}.{layer}.lora_A.weight" for layer in layers]

    found = shape_of({"peft_type": "LORA", "r": 8}, names)

    assert (found.train_mlp, found.train_attn, found.train_unembed) == trained
