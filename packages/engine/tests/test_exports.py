"""Exports: each is loaded by the library that it is for, and computes what the engine computes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.errors import Refused
from dreadnode_engine.exports import export, gguf_lora, logits, merged
from dreadnode_engine.exports.base_files import BaseFiles
from dreadnode_engine.exports.export import run
from dreadnode_engine.settings import ExportSettings
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from .conftest import make_model

ROWS = [list(range(3, 40)), [90, 4, 17, 5]]
HOW = {"peft": "peft", "vllm": "peft", "merged": "merged", "gguf-lora": "gguf"}
Case = tuple[Path, Path, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Make a base model, an adapter that changes a lot, and the engine's logits, once each."""
    made: dict[str, Case] = {}

    def make(kind: str, *, head: bool = True) -> Case:
        name = f"{kind}-{head}"
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            base = make_model(folder / "base", kind.removesuffix("-tied"), 320)
            if kind.endswith("-tied"):
                tie(base)
            loaded = LoadedBase(inspect_model(kind, base), Device())
            wrapper, _ = loaded.wrapper_for(LoraShape(4, True, True, head))
            torch.manual_seed(1)
            tensors = {name: torch.randn(size) * 0.15 for name, size in wrapper.shapes.items()}
            (folder / "adapter").mkdir()
            wrapper.export(tensors, folder / "adapter", "Qwen/Qwen3-8B:peft:131072")
            (folder / "adapter" / "README.md").write_text("---\na: b\n---\n# Harbour\n\nTrained.\n")
            made[name] = base, folder / "adapter", computed("engine", base, folder / "adapter")
        return made[name]

    return make


def tie(base: Path) -> None:
    """Make the last layer of the model in BASE its embeddings."""
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(
        {n: t.clone() for n, t in tensors.items()}, base / "model.safetensors", {"format": "pt"}
    )


def computed(how: str, base: Path, folder: Path) -> dict[str, torch.Tensor]:
    work = folder.parent / f"logits-{how}"
    work.mkdir(exist_ok=True)
    (work / "rows.json").write_text(json.dumps(ROWS))
    logits.main(how, base, folder, work / "rows.json", work / "out")
    return load_file(work / "out")


def settings(base: Path, adapter: Path, to: Path, form: str, **changes: Any) -> ExportSettings:
    values = {"base": base, "adapter": adapter, "to": to, "format": form, "check": False}
    return ExportSettings(data_dir=to.parent, **{**values, **changes})


@pytest.mark.parametrize(
    ("kind", "form", "head"),
    [
        *((kind, form, True) for kind in ("llama", "qwen3") for form in ("merged", "gguf-lora")),
        *(("qwen3_moe", form, True) for form in ("peft", "merged", "gguf-lora")),
        *((kind, "merged", True) for kind in ("qwen3_5_moe", "deepseek_v3", "nemotron_h_omni")),
        ("glm5_next", "merged", True),
        ("llama", "vllm", True),
        ("qwen3_moe", "vllm", False),
        ("qwen3-tied", "merged", True),
        ("qwen3-tied", "merged", False),
        ("qwen3-tied", "gguf-lora", False),
    ],
)
def test_an_export_computes_what_the_engine_computes(
    kind: str, form: str, head: bool, case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, expected = case(kind, head=head)

    run(settings(base, adapter, tmp_path / "out", form))

    found = computed(HOW[form], base, tmp_path / "out")
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-3)
    assert (expected["adapter.0"] - expected["base.0"]).abs().max() > 1


def test_a_merged_model_keeps_types_and_files_and_stands_alone(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, expected = case("qwen3")
    halved = tmp_path / "halved"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(
        halved, max_shard_size="20KB"
    )
    for file in base.glob("tokenizer*"):
        (halved / file.name).write_bytes(file.read_bytes())

    run(settings(halved, adapter, tmp_path / "out", "merged"))

    before, after = BaseFiles(halved), BaseFiles(tmp_path / "out")
    assert len(after.shards) > 2
    assert {n: (t.dtype, t.shape, t.start) for n, t in before.tensors.items()} == {
        n: (t.dtype, t.shape, t.start) for n, t in after.tensors.items()
    }
    names = {file.name for file in halved.iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names | {"README.md"}
    found = computed("merged", base, tmp_path / "out")["adapter.0"]
    assert (found - expected["adapter.0"]).abs().max() < 0.05 * expected["adapter.0"].abs().max()


def test_blocks_of_rows_merge_as_whole_matrices(
    case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter, _ = case("qwen3_moe")
    run(settings(base, adapter, tmp_path / "whole", "merged"))
    monkeypatch.setattr(merged, "BLOCK", 100)

    run(settings(base, adapter, tmp_path / "blocks", "merged"))

    whole, parts = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "blocks"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_last_layer_of_its_own_leaves_tied_embeddings_as_they_were(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case("qwen3-tied")

    run(settings(base, adapter, tmp_path / "out", "merged"))

    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    embeddings = model.model.embed_tokens.weight
    assert torch.equal(
        embeddings, load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    )
    assert not torch.equal(model.lm_head.weight, embeddings)


def test_an_adapter_with_several_ranks_gets_one_rank_for_vllm(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case("llama", head=False)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    halves = {n: t[:2] if "lora_A" in n else t[:, :2] for n, t in tensors.items() if "q_proj" in n}
    save_file(
        {n: t.clone() for n, t in (tensors | halves).items()}, mixed / "adapter_model.safetensors"
    )
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}}
    (mixed / "adapter_config.json").write_text(json.dumps(config))

    run(settings(base, mixed, tmp_path / "out", "vllm"))

    written = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["rank_pattern"]) == (4, 4, {})
    found, expected = computed("peft", base, tmp_path / "out"), computed("peft", base, mixed)
    torch.testing.assert_close(found["adapter.0"], expected["adapter.0"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "form", "sentence"),
    [
        ("inkling", "merged", "published weights have other names than its layers"),
        ("deepseek_v4", "merged", "published weights have other names than its layers"),
        ("qwen3-tied", "gguf-lora", "it cannot apply the adapter's `lm_head`"),
        ("qwen3-tied", "vllm", "trains `lm_head`, which is tied to the embeddings for `qwen3`"),
        ("qwen3", "vllm", "trains `lm_head`, which takes no LoRA in vLLM for `qwen3`"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(
    kind: str, form: str, sentence: str, case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case(kind)

    with pytest.raises(Refused, match=sentence):
        run(settings(base, adapter, tmp_path / "out", form))

    assert list(tmp_path.iterdir()) == []


def test_another_base_model_is_refused(case: Callable[..., Case], tmp_path: Path) -> None:
    _, adapter, _ = case("qwen3_moe")
    base, _, _ = case("llama")

    with pytest.raises(Refused, match=r"does not fit this base model, which has no `model\.lay"):
        run(settings(base, adapter, tmp_path / "out", "merged"))


def test_a_vision_models_language_model_is_found_one_level_below(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case("qwen3")
    run(settings(base, adapter, tmp_path / "plain", "merged"))
    below = tmp_path / "below"
    below.mkdir()
    tensors = load_file(base / "model.safetensors")
    renamed = {n.replace("model.", "model.language_model."): t.clone() for n, t in tensors.items()}
    save_file(renamed, below / "model.safetensors")
    (below / "config.json").write_text((base / "config.json").read_text())

    run(settings(below, adapter, tmp_path / "out", "merged"))

    plain, found = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "out"))
    for name, tensor in plain.items():
        assert torch.equal(found[name.replace("model.", "model.language_model.")], tensor)


def test_experts_with_rows_in_turns_are_refused(case: Callable[..., Case], tmp_path: Path) -> None:
    base, adapter, _ = case("gpt_oss")

    with pytest.raises(Refused, match="Experts of `gpt_oss` are not exported; the downloaded"):
        run(settings(base, adapter, tmp_path / "out", "merged"))


def test_a_base_model_that_is_not_here_is_named(
    case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapter, _ = case("llama")
    monkeypatch.setattr(export, "discover", lambda *_, **__: {})

    with pytest.raises(Refused, match=r"weights of `Qwen/Qwen3-8B` are not on this machine; name"):
        run(settings(None, adapter, tmp_path / "out", "merged"))  # type: ignore[arg-type]


def test_an_export_that_does_not_fit_on_the_disk_leaves_nothing(
    case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter, _ = case("llama")
    monkeypatch.setattr(merged.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())

    with pytest.raises(Refused, match=r"The export takes 0\.0 GiB, and 0\.0 GiB are free"):
        run(settings(base, adapter, tmp_path / "out", "merged"))

    assert list(tmp_path.iterdir()) == []


def test_a_gguf_file_names_its_architecture_and_has_the_ranks_for_its_scale(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case("qwen3_moe")

    run(settings(base, adapter, tmp_path / "out", "gguf-lora"))

    reader = gguf.GGUFReader(tmp_path / "out" / gguf_lora.FILE)
    field = {name: each.contents() for name, each in reader.fields.items()}
    assert field["general.architecture"] == "qwen3moe"
    assert (field["general.type"], field["adapter.type"]) == ("adapter", "lora")
    assert field["adapter.lora.alpha"] == 4
    shapes = {tensor.name: list(tensor.shape) for tensor in reader.tensors}
    # In the file's order: in, rank, experts.
    assert shapes["blk.0.ffn_gate_exps.weight.lora_a"] == [32, 4, 4]
    assert shapes["blk.0.ffn_gate_exps.weight.lora_b"] == [4, 16, 4]


def test_the_command_checks_an_export_in_new_processes_and_writes_its_card(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    base, adapter, _ = case("qwen3_moe")

    ended = subprocess.run(
        [
            *(sys.executable, "-m", "dreadnode_engine", "export", "--format", "merged"),
            *("--adapter", str(adapter), "--to", str(tmp_path / "out"), "--base", str(base)),
            *("--data-dir", str(tmp_path)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["largest_difference"] < 1e-3
    assert result["adapter_effect"] > 1
    card = (tmp_path / "out/README.md").read_text()
    assert "base_model: Qwen/Qwen3-8B\n" in card
    assert "# Harbour\n" in card
    assert f"The largest difference is {result['largest_difference']:.2g};" in card
    assert card.endswith("Trained.\n")
