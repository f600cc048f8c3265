"""`dn train export` and `dn train push-hub`: what leaves this machine's server, and what is left."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode.local_server import export
from inline_snapshot import snapshot

Dn = Callable[[str], str]
JOB = "01900001-0000-7000-8000-000000000000"
FILES = {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"weights"}
WRITES = """
import json, pathlib, sys
words = [each for each in sys.argv[2:] if each != "--no-check"]
flags = dict(zip(words[::2], words[1::2]))
to = pathlib.Path(flags["--to"])
to.mkdir()
copied = pathlib.Path(flags["--adapter"], "adapter_model.safetensors").read_bytes()
(to / "model.safetensors").write_bytes(copied)
print(json.dumps({
    "folder": str(to), "format": flags["--format"], "largest_difference": 0.0000123,
    "adapter_effect": 4.5678, "files": [{"path": "model.safetensors", "bytes": len(copied)}],
}))
"""
FAILS = "import sys; sys.exit('a warning\\nerror: The weights of `Qwen/Qwen3-8B` are not on this machine')"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in the place of the engine's exporter."""

    def use(program: str) -> None:
        monkeypatch.setattr(export, "module_command", lambda _: (sys.executable, "-c", program))

    return use


def test_an_export_names_its_files_and_the_largest_difference(
    dn: Dn, api: Any, engine: Callable[[str], None]
) -> None:
    api.files = FILES
    engine(WRITES)

    assert dn(f"train export {JOB} --to out --no-check") == snapshot("""\
exit: 0
--- stdout
out
--- stderr
out/model.safetensors  7 bytes
checked in a new process: logits differ from the engine's by at most 1.2e-05; the adapter changes them by up to 4.57
hint: to use it: `vllm serve out`
""")
    assert Path("out/model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_a_failed_export_says_why_and_leaves_nothing(
    dn: Dn, api: Any, engine: Callable[[str], None]
) -> None:
    api.files = FILES
    engine(FAILS)

    assert dn(f"train export {JOB} --to out") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The weights of `Qwen/Qwen3-8B` are not on this machine
""")
    assert list(Path().iterdir()) == []


def test_an_export_overwrites_nothing(dn: Dn, api: Any) -> None:
    api.files = FILES
    Path("out").mkdir()

    assert dn(f"train export {JOB} --to out") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: out exists; name another folder with `--to`
""")


def test_a_dry_run_lists_what_would_be_uploaded(dn: Dn, api: Any) -> None:
    api.files = FILES

    assert dn(f"train push-hub {JOB} me/harbour --dry-run") == snapshot("""\
exit: 0
--- stdout
--- stderr
adapter_config.json  2 bytes
adapter_model.safetensors  7 bytes
nothing was sent to me/harbour (`--dry-run`)
""")


def test_the_folder_of_an_export_can_be_uploaded(dn: Dn) -> None:
    Path("out").mkdir()
    Path("out/model.safetensors").write_bytes(b"merged")

    assert "model.safetensors  6 bytes" in dn("train push-hub out me/harbour --dry-run")
    assert "`--best` and `--checkpoint` choose weights of a job" in dn(
        "train push-hub out me/harbour --dry-run --best"
    )


def test_an_upload_without_a_token_or_with_a_wrong_name_is_refused_before_a_download(
    dn: Dn, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    assert dn(f"train push-hub {JOB} me/harbour") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: there is no token for the hub: set HF_TOKEN, or run `hf auth login`; `--dry-run` lists the files without one
""")
    assert "error: `me/har bour` cannot name a repository of the hub:" in dn(
        f"train push-hub {JOB} 'me/har bour'"
    )
    assert api.asked == []


def test_an_unreachable_hub_is_named(dn: Dn, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_test")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")

    said = dn("train push-hub out me/harbour")

    assert said.startswith("exit: 1\n")
    assert "error: the hub at http://127.0.0.1:9 cannot be reached: " in said
