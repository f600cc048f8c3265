"""`dn` as a test calls it: one command line in, its whole transcript out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from dreadnode.cli.main import run

Dn = Callable[[str], str]


@pytest.fixture(autouse=True)
def pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the width that pytest-xdist sets in its workers."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def two_hours_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of tables to two hours after the times that the fake API returns."""
    moment = datetime(2026, 11, 22, 5, tzinfo=UTC)
    monkeypatch.setattr("dreadnode.cli.output.now", lambda: moment)


@pytest.fixture
def dn(api: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dn:
    """Run `dn` against the test's API, as somebody who has set the environment up for it."""
    monkeypatch.setenv("DREADNODE_SERVER", "http://server.test")
    monkeypatch.setenv("DREADNODE_API_KEY", "dn_test")
    monkeypatch.setenv("DREADNODE_ORGANIZATION", "main")
    monkeypatch.setenv("DREADNODE_WORKSPACE", "default")
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def call(line: str) -> str:
        code = run(shlex.split(line), transport=api.transport)
        said = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{said.out}--- stderr\n{said.err}"

    return call
