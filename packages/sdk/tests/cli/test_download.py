"""`dn train download`: an adapter, the best one, or a checkpoint."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]
MakeJob = Callable[..., dict[str, Any]]
ADAPTER = {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"weights"}


def test_peft_loads_a_downloaded_folder(dn: Dn, api: Any) -> None:
    api.files = ADAPTER

    assert dn("train download 01900001-0000-7000-8000-000000000000 --to mine") == snapshot("""\
exit: 0
--- stdout
mine
--- stderr
mine/adapter_config.json  2 bytes
mine/adapter_model.safetensors  7 bytes
""")
    assert Path("mine/adapter_model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in Path("mine").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_repeated_download_fetches_only_missing_files_and_overwrites_nothing(
    dn: Dn, api: Any
) -> None:
    api.files = ADAPTER
    dn("train download 01900001-0000-7000-8000-000000000000 --to mine")
    Path("mine/adapter_config.json").unlink()

    assert dn("train download 01900001-0000-7000-8000-000000000000 --to mine") == snapshot("""\
exit: 0
--- stdout
mine
--- stderr
mine/adapter_config.json  2 bytes
""")

    Path("mine/adapter_config.json").write_text("my own")

    assert dn("train download 01900001-0000-7000-8000-000000000000 --to mine") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: mine/adapter_config.json already exists with other content; name another folder with `--to`
""")
    assert Path("mine/adapter_config.json").read_text() == "my own"


def test_the_best_weights_are_downloaded_where_they_are_not_the_last(dn: Dn, api: Any) -> None:
    api.files = {"adapter/adapter_config.json": b"last"}
    same = dn("train download 01900001-0000-7000-8000-000000000000 --best --to same")
    api.files["best/adapter_config.json"] = b"best"

    assert dn("train download 01900001-0000-7000-8000-000000000000 --best") == snapshot("""\
exit: 0
--- stdout
best-01900001-0000-7000-8000-000000000000
--- stderr
best-01900001-0000-7000-8000-000000000000/adapter_config.json  4 bytes
the best weights are a separate adapter
""")
    assert (
        Path("best-01900001-0000-7000-8000-000000000000/adapter_config.json").read_bytes()
        == b"best"
    )
    assert "the best weights are the final ones" in same
    assert Path("same/adapter_config.json").read_bytes() == b"last"


def test_a_damaged_download_is_deleted(dn: Dn, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.files = {"adapter/adapter_model.safetensors": b"weights"}
    answer = api._job
    monkeypatch.setattr(
        api,
        "_job",
        lambda request, rest: (
            httpx2.Response(200, content=b"weight") if "/files/" in rest else answer(request, rest)
        ),
    )

    assert dn("train download 01900001-0000-7000-8000-000000000000 --to mine") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: adapter_model.safetensors was damaged in transit and is not kept; try again
""")
    assert list(Path("mine").iterdir()) == []


def test_a_server_cannot_write_outside_the_folder(dn: Dn, api: Any) -> None:
    api.files = {"adapter/../../.bashrc": b"evil"}

    assert dn("train download 01900001-0000-7000-8000-000000000000 --to mine") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: the server names a file outside of its folder: 'adapter/../../.bashrc'
""")
    assert not Path("mine").exists()


def test_a_job_without_an_adapter_says_when_one_will_exist(dn: Dn) -> None:
    assert dn("train download 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: job 01900001-0000-7000-8000-000000000000 has no adapter yet; `dn train wait 01900001-0000-7000-8000-000000000000` waits for its end, and `--checkpoint NAME` downloads a checkpoint before that
""")


def test_a_checkpoint_is_downloaded_by_name_beside_the_adapter(dn: Dn, api: Any) -> None:
    api.files = ADAPTER | {
        "checkpoints/step-000010/adapter_config.json": b"{}",
        "checkpoints/step-000010/adapter_model.safetensors": b"earlier",
    }

    assert dn(
        "train download 01900001-0000-7000-8000-000000000000 --checkpoint step-000010"
    ) == snapshot("""\
exit: 0
--- stdout
step-000010-01900001-0000-7000-8000-000000000000
--- stderr
the engine exports the checkpoint, if it has not yet; this can take minutes
step-000010-01900001-0000-7000-8000-000000000000/adapter_config.json  2 bytes
step-000010-01900001-0000-7000-8000-000000000000/adapter_model.safetensors  7 bytes
Qwen/Qwen3-8B after step 10 (step-000010)
""")
    assert (
        Path(
            "step-000010-01900001-0000-7000-8000-000000000000/adapter_model.safetensors"
        ).read_bytes()
        == b"earlier"
    )
    again = dn(
        "train download 01900001-0000-7000-8000-000000000000 --checkpoint tinker://run-1/weights/step-000010"
    )
    assert "bytes" not in again
    assert (
        api.asked[0]
        == "POST /org/main/ws/default/training/jobs/01900001-0000-7000-8000-000000000000/checkpoints/adapter"
    )


def test_a_checkpoint_of_a_rehearsal_is_never_shown_as_one_of_the_model(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [make_job(rehearsal=True, trained_model="stand-in/tiny")]
    api.files = {"checkpoints/best/adapter_config.json": b"{}"}

    said = dn(
        "train download 01900001-0000-7000-8000-000000000000 --checkpoint best --to mine --json"
    )

    assert '"folder":"mine"' in said.replace(" ", "")
    assert "rehearsal: this is the stand-in stand-in/tiny after step 10 (best)" in said


def test_a_checkpoints_files_stay_in_its_folder(dn: Dn, api: Any) -> None:
    api.files = {"checkpoints/best/../../../.bashrc": b"evil"}
    outside = dn("train download 01900001-0000-7000-8000-000000000000 --checkpoint best --to mine")
    api.files = {"checkpoints/other/adapter_config.json": b"{}"}
    elsewhere = dn(
        "train download 01900001-0000-7000-8000-000000000000 --checkpoint best --to mine"
    )

    assert "error: the server names a file outside of its folder" in outside
    assert "error: the server names files outside of their folder" in elsewhere
    assert not Path("mine").exists()


def test_best_and_checkpoint_exclude_each_other(dn: Dn, api: Any) -> None:
    assert dn(
        "train download 01900001-0000-7000-8000-000000000000 --best --checkpoint final"
    ) == snapshot("""\
exit: 2
--- stdout
--- stderr
error: use `--best` or `--checkpoint`, not both
""")
    assert api.asked == []
