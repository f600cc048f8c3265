"""The bar that a terminal shows while one waits."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode.cli.progress import watcher
from dreadnode.training.jobs import TrainingJob

PROGRESS = {"step": 6, "steps": 36, "loss": 2.34567, "seconds_left": 3695.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def be_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Put a terminal in the place of stderr, for the rest of the test."""

    def be() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        return terminal

    return be


def test_a_terminal_sees_phase_steps_loss_and_the_time_that_is_left(
    be_on_a_terminal: Callable[[], Terminal], make_job: Callable[..., dict[str, Any]]
) -> None:
    job = make_job(status="running", phase="training", rehearsal=True, progress=PROGRESS)
    terminal = be_on_a_terminal()

    with watcher() as update:
        update(TrainingJob.model_validate(job))

    shown = terminal.getvalue()
    for part in ("training (rehearsal)", "6/36", "loss 2.3457", "1:01:35 left"):
        assert part in shown


def test_a_terminal_is_told_when_the_server_does_not_answer(
    be_on_a_terminal: Callable[[], Terminal],
) -> None:
    terminal = be_on_a_terminal()

    with watcher() as update:
        update(None)

    assert "the server does not answer" in terminal.getvalue()
