"""`dn capability push | list | get | download | delete`, by their transcripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from dreadnode.capabilities import without_front_matter
from dreadnode.cli.main import run
from inline_snapshot import snapshot

Dn = Callable[[str], str]
STORED = {
    "id": "c-1",
    "name": "harbour",
    "version": "1.0.0",
    "description": "The harbour desk",
    "prompt": "Begin with Ahoy.",
    "entry_agent": None,
    "artifact_sha256": "ab" * 32,
    "created_at": "2026-11-22T03:00:00Z",
}


@pytest.fixture
def sent() -> list[httpx2.Request]:
    return []


@pytest.fixture
def dn(
    sent: list[httpx2.Request],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Dn:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    for name, value in {
        "SERVER": "http://server.test",
        "API_KEY": "dn_test",
        "ORGANIZATION": "main",
        "WORKSPACE": "default",
    }.items():
        monkeypatch.setenv(f"DREADNODE_{name}", value)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        if request.url.path.endswith("/capabilities"):
            page = {"capabilities": [STORED], "total": 1, "page": 1, "limit": 20}
            return httpx2.Response(200, json=page)
        if request.url.path.endswith("/archive"):
            return httpx2.Response(200, content=b"a gzipped tar")
        return httpx2.Response(200, json=STORED)

    def call(line: str) -> str:
        code = run(shlex.split(line), transport=httpx2.MockTransport(answer))
        said = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{said.out}--- stderr\n{said.err}"

    return call


def folder(manifest: str, **agents: str) -> None:
    Path("desk/agents").mkdir(parents=True)
    Path("desk/capability.yaml").write_text(manifest)
    for name, text in agents.items():
        Path(f"desk/agents/{name}.md").write_text(text)


def test_a_text_file_is_pushed_as_a_prompt(dn: Dn, sent: list[httpx2.Request]) -> None:
    Path("prompt.md").write_text("Begin with Ahoy.\n")

    assert dn("capability push prompt.md harbour@1.0.0") == snapshot("""\
exit: 0
--- stdout
capability   harbour@1.0.0
description  The harbour desk
sha256       abababababababababababababababababababababababababababababababab
created      2026-11-22 03:00:00
prompt       Begin with Ahoy.
--- stderr
hint: `dn train sft --capability harbour@1.0.0 …` trains with it
""")
    assert sent[0].url.path == "/api/v1/org/main/capabilities/harbour/1.0.0"
    assert json.loads(sent[0].content) == {"prompt": "Begin with Ahoy."}


def test_a_folder_gives_its_name_and_its_entry_agents_prompt(
    dn: Dn, sent: list[httpx2.Request]
) -> None:
    folder(
        "name: harbour\nversion: 0.1.0\ndescription: The desk\nentry_agent: b\n",
        a="first",
        b="---\nname: b\n---\nsecond\n",
    )

    dn("capability push desk")

    assert sent[0].url.path == "/api/v1/org/main/capabilities/harbour/0.1.0"
    assert json.loads(sent[0].content) == {"prompt": "second", "description": "The desk"}


def test_capabilities_are_listed(dn: Dn) -> None:
    assert dn("capability list") == snapshot("""\
exit: 0
--- stdout
CAPABILITY     DESCRIPTION       CREATED
harbour@1.0.0  The harbour desk  2h ago
--- stderr
""")


def test_a_capability_is_shown_by_name_or_by_version(dn: Dn, sent: list[httpx2.Request]) -> None:
    dn("capability get harbour")
    dn("capability get harbour@1.0.0 --json")

    assert [each.url.path for each in sent] == [
        "/api/v1/org/main/capabilities/harbour",
        "/api/v1/org/main/capabilities/harbour/1.0.0",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("capability push prompt.md", "has no name and version"),
        ("capability push prompt.md harbour", "has no version"),
        ("capability push prompt.md Harbour@1.0.0", "is not a valid capability name"),
        ("capability push empty.md harbour@1.0.0", "has no prompt"),
        ("capability push long.md harbour@1.0.0", "the limit is 100,000"),
        ("capability push latin.md harbour@1.0.0", "not text in UTF-8"),
        ("capability push nowhere.md harbour@1.0.0", "cannot be read"),
        ("capability push desk", "has no prompt; add one as agents/NAME.md"),
        ("capability get harbour@latest", "has no version"),
        ("train sft --model m --dataset a@1 --capability harbour", "has no version"),
    ],
)
def test_an_invalid_capability_is_refused_before_a_request_is_sent(
    dn: Dn, sent: list[httpx2.Request], line: str, words: str
) -> None:
    folder("name: harbour\nversion: 0.1.0\n")
    Path("prompt.md").write_text("Begin with Ahoy.")
    Path("empty.md").write_text("---\nname: x\n---\n\n")
    Path("long.md").write_text("x" * 100_001)
    Path("latin.md").write_bytes(b"\xe9")

    said = dn(line)

    assert words in said
    assert not said.startswith("exit: 0")
    assert sent == []


@pytest.mark.parametrize("manifest", ["- a list", "a: [", ""])
def test_an_invalid_manifest_is_refused(dn: Dn, manifest: str) -> None:
    folder(manifest, a="first")

    assert "capability.yaml" in dn("capability push desk")


def test_a_missing_file_of_the_entry_agent_is_refused(dn: Dn, sent: list[httpx2.Request]) -> None:
    folder("name: harbour\nversion: 0.1.0\nentry_agent: c\n", a="first", b="second")

    said = dn("capability push desk")

    assert said.startswith("exit: 1")
    assert "the entry agent `c` has no file in agents/; agents with a file: `a`, `b`" in said
    assert sent == []


@pytest.mark.parametrize("command", ["capability push prompt.md", "dataset push rows.jsonl"])
def test_a_version_given_as_a_flag_is_refused(
    dn: Dn, sent: list[httpx2.Request], command: str
) -> None:
    said = dn(f"{command} --version 1.0.0")

    assert said.startswith("exit: 2")
    assert "Unknown option: --version" in said
    assert sent == []


def test_a_job_request_names_its_capability(dn: Dn, sent: list[httpx2.Request]) -> None:
    dn("train sft --model Qwen/Qwen3-8B --dataset a@1 --capability harbour@1.0.0 --rehearse")

    assert json.loads(sent[0].content)["capability_ref"] == {"name": "harbour", "version": "1.0.0"}


def test_front_matter_is_not_part_of_a_prompt() -> None:
    assert without_front_matter("---\na: 1\n---\nbody --- more") == "body --- more"
    assert without_front_matter("---\nnever closed") == "---\nnever closed"


def test_a_capability_is_downloaded_into_a_new_file(dn: Dn) -> None:
    fetched = dn("capability download harbour@1.0.0")
    again = dn("capability download harbour@1.0.0")

    assert fetched.startswith("exit: 0\n--- stdout\nharbour-1.0.0.tar.gz\n")
    assert Path("harbour-1.0.0.tar.gz").read_bytes() == b"a gzipped tar"
    assert "exit: 1" in again
    assert "already exists" in again


def test_one_version_of_a_capability_is_deleted(dn: Dn, sent: list[httpx2.Request]) -> None:
    deleted = dn("capability delete harbour@1.0.0")
    unversioned = dn("capability delete harbour")

    assert "harbour@1.0.0" in deleted
    assert [(each.method, each.url.path) for each in sent] == [
        ("DELETE", "/api/v1/org/main/capabilities/harbour/1.0.0")
    ]
    assert unversioned.startswith("exit: 2")
