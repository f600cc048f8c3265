"""What is served, found before anything is loaded; and the commands that say so."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dreadnode_engine.base_models import discovery
from dreadnode_engine.base_models.discovery import STAND_IN_ID, discover, inspect_model
from dreadnode_engine.base_models.published import PUBLISHED
from dreadnode_engine.compute import decoders  # noqa: F401 (it registers a class)
from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.errors import Refused
from dreadnode_engine.settings import Settings
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM

KEY = "tml-master-key-of-the-tests"


def run(*arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dreadnode_engine", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"DREADNODE_ENGINE_KEY": key},
    )


def found(data_dir: Path, *named: str) -> dict[str, Any]:
    return dict(discover(data_dir, named, stand_in=False, cache=False))


def changed(models_dir: Path, to: Path, **config: Any) -> Path:
    """Copy the tiny Llama with other settings."""
    shutil.copytree(models_dir / "llama", to)
    file = to / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


def test_a_named_directory_is_served_under_its_name(models_dir: Path, tmp_path: Path) -> None:
    models = found(tmp_path, f"my/llama={models_dir / 'llama'}")

    described = models["my/llama"].describe()
    assert described == {
        "model_name": "my/llama",
        "max_context_length": 128,
        "trainable": True,
        "sampleable": True,
        "stand_in": False,
        "streams": True,
        "uploads": True,
        "tied_embeddings": False,
        "tokenizer_id": str(models_dir / "llama"),
        "max_lora_rank": 128,
    }


def test_a_later_model_with_the_same_name_replaces_an_earlier_one(
    models_dir: Path, tmp_path: Path
) -> None:
    models = found(tmp_path, f"a={models_dir / 'llama'}", f"a={models_dir / 'qwen3'}")

    assert models["a"].architecture == "Qwen3ForCausalLM"


@pytest.mark.parametrize("named", ["no-path", "=x", "x=", "x=/nowhere"])
def test_a_missing_model_is_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(Refused):
        found(tmp_path, named)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"architectures": ["BertModel"]}, "not a causal language model"),
        ({"architectures": None}, "not a causal language model"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "full attention"),
        ({"use_sliding_window": True}, "full attention"),
        ({"kv_lora_rank": 8}, "latent attention"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_an_unsupported_architecture_is_refused(
    models_dir: Path, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    path = changed(models_dir, tmp_path / "m", **config)

    with pytest.raises(Refused, match=sentence):
        inspect_model("m", path)


def test_a_directory_without_weights_is_refused(models_dir: Path, tmp_path: Path) -> None:
    path = changed(models_dir, tmp_path / "m")
    (path / "model.safetensors").unlink()

    with pytest.raises(Refused, match="no safetensors"):
        inspect_model("m", path)


def test_an_incomplete_download_is_refused_with_the_missing_file(
    models_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(models_dir / "llama", tmp_path / "a")
    index = {"weight_map": {"x": "model.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copytree(models_dir / "llama", tmp_path / "b")
    for file in (tmp_path / "b").glob("tokenizer*"):
        file.unlink()

    with pytest.raises(Refused, match="has no `model-00002-of-00002"):
        inspect_model("a", tmp_path / "a")
    with pytest.raises(Refused, match="has no tokenizer"):
        inspect_model("b", tmp_path / "b")


def test_a_gguf_file_replaced_by_one_of_the_same_size_is_converted_again(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[str] = []

    def convert(gguf: Path, target: Path) -> None:
        converted.append(gguf.read_text())
        shutil.copytree(models_dir / "llama", target)

    monkeypatch.setattr(discovery, "_convert", convert)
    gguf = tmp_path / "model.gguf"
    for moment, content in ((1, "first"), (1, "first"), (2, "other")):
        gguf.write_text(content)
        os.utime(gguf, (moment, moment))
        found(tmp_path / "data", f"my/model={gguf}")

    assert converted == ["first", "other"]


def test_a_cached_model_is_served_under_its_repository_name(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--some--llama"
    shutil.copytree(models_dir / "llama", repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    other = tmp_path / "hub" / "models--some--tokenizer" / "snapshots" / "def"
    other.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    answer = run("models", "--data-dir", str(tmp_path / "d"), "--no-stand-in", "--json")

    (model,) = json.loads(answer.stdout)["models"]
    assert model["model_name"] == "some/llama"
    assert model["bytes"] > 0


def test_the_stand_in_is_converted_once_and_marked_as_stand_in(tmp_path: Path) -> None:
    pytest.importorskip("gguf")

    first = discover(tmp_path, [], stand_in=True, cache=False)
    if STAND_IN_ID not in first:
        pytest.skip("the package that carries the stand-in is not installed")
    written = (first[STAND_IN_ID].path / "model.safetensors").stat().st_mtime_ns
    second = discover(tmp_path, [], stand_in=True, cache=False)

    assert first == second
    assert first[STAND_IN_ID].describe()["stand_in"] is True
    assert first[STAND_IN_ID].context == 8192
    assert (first[STAND_IN_ID].path / "model.safetensors").stat().st_mtime_ns == written
    assert (first[STAND_IN_ID].path / "tokenizer.json").is_file()
    assert [folder.name for folder in (tmp_path / "models").iterdir()] == [
        first[STAND_IN_ID].path.name
    ]


def dn(*arguments: str, data_home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("dn"), "engine", "models", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"XDG_DATA_HOME": str(data_home)} | environment,
    )


def test_dn_engine_models_lists_models_and_what_each_catalog_entry_needs(
    models_dir: Path, tmp_path: Path
) -> None:
    named = [
        *("--model", f"Qwen/Qwen3-8B={models_dir / 'qwen3'}"),
        *("--model", f"my/own={models_dir / 'llama'}"),
        *("--no-stand-in", "--no-hf-cache"),
    ]

    shown = dn(*named, data_home=tmp_path, COLUMNS="100")
    as_json = dn(*named, "--json", "--context", "8192", data_home=tmp_path)
    # pytest-xdist sets COLUMNS to 80 for its workers.
    nothing = dn("--no-stand-in", "--no-hf-cache", data_home=tmp_path, COLUMNS="400")

    assert shown.returncode == 0, shown.stderr
    heading, qwen, own, *needed = shown.stdout.splitlines()
    assert 80 < max(map(len, needed)) <= 100
    assert "a wider terminal and `--json` show all columns" in shown.stderr
    assert heading.split() == ["MODEL", "GIB", "CONTEXT", "ARCHITECTURE", "TRAINS"]
    assert qwen.split()[:4] == ["Qwen/Qwen3-8B", "0.00", "128", "Qwen3"]
    assert qwen.endswith("sft, importance_sampling, ppo")
    assert own.endswith("not in the catalog")
    assert f"`dn serve --model Qwen/Qwen3-8B={models_dir / 'qwen3'} " in shown.stderr
    assert "dn train sft --model Qwen/Qwen3-8B" in shown.stderr
    models = {model["model_name"]: model for model in json.loads(as_json.stdout)["models"]}
    assert models["Qwen/Qwen3-8B"]["catalog"] == "Qwen/Qwen3-8B"
    assert models["my/own"]["catalog"] is None
    size = (models_dir / "llama" / "model.safetensors").stat().st_size
    assert models["my/own"]["bytes"] == size
    assert nothing.returncode == 0
    assert nothing.stdout.startswith("CATALOG ENTRY")
    assert "no models" in nothing.stderr
    rows = {line.split()[0]: line.split(None, 4) for line in nothing.stdout.splitlines()}
    assert rows["deepseek-ai/DeepSeek-V3.1"][4].startswith("too large")
    assert rows["deepseek-ai/DeepSeek-V3.1"][4].endswith("latent attention, routed experts")
    newer = rows["deepseek-ai/DeepSeek-V4.1-Flash:peft:262144"]
    assert newer[4].endswith("attention to compressed positions, routed experts")
    assert "4,096 tokens at rank 32" in nothing.stderr
    needs = json.loads(as_json.stdout)["needs"]
    entries = {entry["model_name"]: entry for entry in json.loads(as_json.stdout)["catalog"]}
    here = entries["Qwen/Qwen3-8B"]
    assert (here["weights_here"], here["fits"]) == (True, True)
    assert here["source"] == str(models_dir / "qwen3")
    assert needs["context"] == 8192
    small = entries["Qwen/Qwen3.5-4B"]
    itemsize = 4 if needs["dtype"] == "float32" else 2
    assert small["weights_bytes"] == itemsize * PUBLISHED["Qwen/Qwen3.5-4B"].parameters
    assert small["training_bytes"] > small["sampling_bytes"] > small["weights_bytes"]


def test_a_context_out_of_range_is_refused(tmp_path: Path) -> None:
    answer = run("models", "--data-dir", str(tmp_path), "--context", "0")

    assert answer.returncode == 2
    assert "must be from 1 to" in answer.stderr


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3.5-4B",
        "openai/gpt-oss-20b",
        "thinkingmachines/Inkling-Small",
        "zai-org/GLM-5.3-Flash",
    ],
)
def test_published_settings_give_the_weights_that_are_counted(name: str) -> None:
    known = PUBLISHED[name]
    with torch.device("meta"):
        config = AutoConfig.for_model(known.model_type, **known.settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        wrapper = PeftWrapper(model, LoraShape(1, True, True, True))

    assert sum(weight.numel() for weight in model.parameters()) == known.parameters
    assert sum(math.prod(s) for s in wrapper.shapes.values()) == known.adapter_parameters


def test_dn_engine_models_refuses_the_same_models_as_the_engine(tmp_path: Path) -> None:
    answer = dn("--model", "x=/nowhere", "--no-stand-in", data_home=tmp_path)

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "has no readable `config.json`" in answer.stderr


def test_a_failed_start_prints_one_sentence(models_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        base = ("serve", "--data-dir", str(tmp_path), "--no-stand-in", "--no-hf-cache")
        answers = [
            run(*base, "--model", "x=/nowhere"),
            run(*base, "--port", port),
            run(*base, key="not-a-tinker-key"),
        ]

    for answer, sentence in zip(
        answers,
        ("has no readable `config.json`", "cannot listen on", "must start with"),
        strict=True,
    ):
        assert answer.returncode == 1, answer.stderr
        assert answer.stdout == ""
        (line,) = [text for text in answer.stderr.splitlines() if text.startswith("error: ")]
        assert sentence in line
        assert "Traceback" not in answer.stderr


def test_wrong_arguments_exit_with_code_2(tmp_path: Path) -> None:
    wrong = [
        ("--session-seconds", "-1"),
        ("--memory-gib", "nan"),
        ("--port", "65536"),
        ("--threads", "0"),
    ]

    assert run("serve").returncode == 2
    for flag, value in wrong:
        answer = run("serve", "--data-dir", str(tmp_path), flag, value)
        assert answer.returncode == 2
        assert f"argument {flag}: `{value}` must be " in answer.stderr


def test_flags_take_durations_sizes_and_token_counts_with_a_unit(tmp_path: Path) -> None:
    given = {"session_seconds": "1h30m", "memory_gib": "512MiB", "backlog_mib": "2GiB"}
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "sampling_tokens": "64K", "gap_seconds": "7", **given}
    )

    assert (settings.session_seconds, settings.gap_seconds) == (5400.0, 7.0)
    assert (settings.memory_gib, settings.backlog_mib) == (0.5, 2048)
    assert settings.sampling_tokens == 65536
    with pytest.raises(ValidationError):
        Settings.model_validate({"data_dir": tmp_path, "session_seconds": "90x"})
