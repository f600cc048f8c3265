"""`dn webhook`, `dn train checkpoints` and `dn server`, by their transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode.cli.main import run
from inline_snapshot import snapshot

Dn = Callable[[str], str]
AT = "2026-11-22T03:00:00Z"
HOOK = {
    "id": "hook-1", "url": "https://hooks.example.com/x", "statuses": ["failed"],
    "created_at": AT, "delivered": 3, "waiting": 1, "given_up": 0,
    "last_error": "it answered with status 503",
}  # fmt: skip
DELIVERY = {
    "id": "d-1", "job_id": "01900001-0000-7000-8000-000000000000", "type": "job.failed", "attempts": 2, "last_status": 503,
    "last_error": "it answered with status 503", "created_at": AT, "next_at": AT,
    "delivered_at": None, "given_up_at": None,
}  # fmt: skip
SAVED = {
    "kind": "training", "state": "ready", "attempt": 1, "best": False, "final": False,
    "metrics": {}, "bytes": None, "created_at": AT, "expired_at": None,
}  # fmt: skip
ANSWERS: dict[tuple[str, str], Any] = {
    ("POST", "/webhooks"): {**HOOK, "secret": "whsec_c2VjcmV0"},
    ("GET", "/webhooks"): {"items": [HOOK]},
    ("DELETE", "/webhooks/hook-1"): HOOK,
    ("GET", "/webhooks/hook-1/deliveries"): {"items": [DELIVERY]},
    ("GET", "/training/jobs/01900001-0000-7000-8000-000000000000/checkpoints"): {
        "items": [
            {**SAVED, "path": "tinker://r/weights/000010", "step": 10, "state": "expired",
             "metrics": {"train/loss": 0.51234}},
            {**SAVED, "path": "tinker://r/weights/final", "step": 20, "final": True, "best": True,
             "bytes": 123456},
        ]
    },
}  # fmt: skip


@pytest.fixture
def sent() -> list[httpx2.Request]:
    return []


@pytest.fixture
def dn(
    sent: list[httpx2.Request], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Dn:
    monkeypatch.setenv("TZ", "UTC")
    for name, value in {
        "SERVER": "http://server.test", "API_KEY": "dn_test", "ORGANIZATION": "main",
        "WORKSPACE": "default",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"DREADNODE_{name}", value)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        path = request.url.path.removeprefix("/api/v1/org/main/ws/default")
        return httpx2.Response(200, json=ANSWERS[request.method, path])

    def call(line: str) -> str:
        code = run(shlex.split(line), transport=httpx2.MockTransport(answer))
        said = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{said.out}--- stderr\n{said.err}"

    return call


def test_only_the_secret_of_a_new_webhook_goes_to_stdout(
    dn: Dn, sent: list[httpx2.Request]
) -> None:
    said = dn("webhook create https://hooks.example.com/x --status failed --status completed")

    assert said == snapshot("""\
exit: 0
--- stdout
whsec_c2VjcmV0
--- stderr
created webhook hook-1; its messages are signed with this secret:
""")
    assert json.loads(sent[0].content) == {
        "url": "https://hooks.example.com/x",
        "statuses": ["failed", "completed"],
    }


def test_webhooks_are_listed_with_their_delivery_status(dn: Dn) -> None:
    assert dn("webhook list") == snapshot("""\
exit: 0
--- stdout
ID      URL                          EVENTS  DELIVERED  PENDING  FAILED  LAST ERROR                   CREATED
hook-1  https://hooks.example.com/x  failed          3        1       0  it answered with status 503  2h ago
--- stderr
hint: `dn webhook deliveries hook-1` shows each message
""")


def test_the_deliveries_of_a_webhook_are_listed_with_their_results(dn: Dn) -> None:
    assert dn("webhook deliveries hook-1") == snapshot("""\
exit: 0
--- stdout
ID   JOB                                   TYPE        STATE    ATTEMPTS  LAST ERROR                   CREATED
d-1  01900001-0000-7000-8000-000000000000  job.failed  pending         2  it answered with status 503  2h ago
--- stderr
""")


def test_a_deleted_webhook_is_named(dn: Dn) -> None:
    assert dn("webhook delete hook-1") == snapshot("""\
exit: 0
--- stdout
id   hook-1
url  https://hooks.example.com/x
--- stderr
deleted webhook hook-1
""")


def test_an_unknown_status_is_a_wrong_argument(dn: Dn, sent: list[Any]) -> None:
    said = dn("webhook create https://hooks.example.com/x --status done")

    assert said.startswith("exit: 2\n")
    assert sent == []


def test_checkpoints_are_listed_with_their_known_facts(dn: Dn) -> None:
    assert dn("train checkpoints 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
NAME    STEP  STATE               KIND      METRICS            SIZE
000010    10  expired             training  train/loss 0.5123
final     20  ready, final, best  training                     120.6 KiB
--- stderr
""")


def test_checkpoints_as_json_contain_every_field(dn: Dn) -> None:
    said = dn("train checkpoints 01900001-0000-7000-8000-000000000000 --json")

    shown = json.loads(said.split("--- stdout\n")[1].split("--- stderr")[0])
    assert [each["path"] for each in shown] == [
        "tinker://r/weights/000010",
        "tinker://r/weights/final",
    ]
    assert shown[1].keys() >= {"state", "kind", "best", "final", "bytes", "metrics"}


def test_a_backup_is_created_by_the_api_package_and_named(dn: Dn, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "blobs").mkdir(parents=True)
    (data / "blobs" / "x").write_text("rows")
    sqlite3.connect(data / "dreadnode.db").close()

    said = dn(f"server backup {tmp_path}/copy --data-dir {data}")

    assert said.startswith(f"exit: 0\n--- stdout\n{tmp_path}/copy\n--- stderr\n"), said
    assert (tmp_path / "copy" / "blobs" / "x").read_text() == "rows"


def test_the_use_of_the_disk_is_shown_by_kind_and_by_dataset(dn: Dn, tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = {**os.environ, "DREADNODE_DATA_DIR": str(data)}
    subprocess.run(
        [sys.executable, "-m", "dreadnode_api", "init"], env=environment, check=True, timeout=60
    )
    (data / "blobs" / "ab").mkdir(parents=True)
    (data / "blobs" / "ab" / ("ab" * 32)).write_bytes(bytes(5 << 20))

    said = dn(f"server disk --data-dir {data}")
    as_json = json.loads(dn(f"server disk --data-dir {data} --json").split("---")[1][7:])

    assert (
        "HOW TO FREE IT\n5.0 MiB    unused blobs  freed after 1 day (DREADNODE_UPLOAD_DAYS)" in said
    )
    assert f"MiB in {data}; " in said
    assert [each["kind"] for each in as_json["kinds"]] == ["unused blobs", "databases"]
    assert as_json["holders"] == []


def test_a_failed_backup_is_reported_in_a_sentence(dn: Dn, tmp_path: Path) -> None:
    said = dn(f"server backup {tmp_path}/copy --data-dir {tmp_path}/nothing")

    assert said == (
        f"exit: 1\n--- stdout\n--- stderr\nerror: there is no data directory {tmp_path}/nothing; "
        "name it with `--data-dir`\n"
    )
