"""The bar that a terminal shows while one waits."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode.cli.output import Output, say
from dreadnode.cli.train.progress import progress_display
from dreadnode.training.chat import ChatMessage
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


def test_a_terminal_shows_phase_steps_loss_and_remaining_time(
    be_on_a_terminal: Callable[[], Terminal], make_job: Callable[..., dict[str, Any]]
) -> None:
    job = make_job(status="running", phase="training", rehearsal=True, progress=PROGRESS)
    terminal = be_on_a_terminal()

    with progress_display() as update:
        update(TrainingJob.model_validate(job))

    shown = terminal.getvalue()
    for part in ("training (rehearsal)", "6/36", "loss 2.3457", "1:01:35 left"):
        assert part in shown


def test_a_terminal_shows_that_the_server_does_not_respond(
    be_on_a_terminal: Callable[[], Terminal],
) -> None:
    terminal = be_on_a_terminal()

    with progress_display() as update:
        update(None)

    assert "the server does not respond" in terminal.getvalue()


def test_a_terminal_shows_the_reward_and_the_newest_evaluation(
    be_on_a_terminal: Callable[[], Terminal], make_job: Callable[..., dict[str, Any]]
) -> None:
    progress = {
        "step": 6, "steps": 36, "reward": 0.125, "eval_reward": 0.5, "tokens": 12345,
        "seconds_left": 60,
    }  # fmt: skip
    job = make_job(status="running", phase="training", trainer_type="rl", progress=progress)
    terminal = be_on_a_terminal()

    with progress_display() as update:
        update(TrainingJob.model_validate(job))

    shown = terminal.getvalue()
    for part in ("6/36", "reward 0.1250", "eval reward 0.5000", "12,345 tokens", "1:00 left"):
        assert part in shown


def test_a_pipe_gets_the_newest_metrics_in_a_line(
    capsys: pytest.CaptureFixture[str], make_job: Callable[..., dict[str, Any]]
) -> None:
    progress = {"step": 4, "steps": 8, "loss": 2.0, "eval_loss": 2.5, "tokens": 80}
    job = make_job(status="running", phase="training", progress={**progress, "seconds_left": 9})

    with progress_display() as update:
        update(TrainingJob.model_validate(job))

    told = capsys.readouterr().err
    assert told == "training, step 4/8, loss 2.0000, eval loss 2.5000\n"


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\u061c", "\x1b", "\x9b"])
def test_control_characters_of_others_are_escaped_wherever_text_is_printed(
    character: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, escaped = f"a {character}gpj.exe", f"a \\u{ord(character):04x}gpj.exe"
    out = Output()

    out.text(text)
    out.fields({"name": text})
    out.rows([ChatMessage(role="user", content=text)], [("said", lambda m: m.content)], none="")
    say(text)
    Output(as_json=True).json({"name": text})
    shown = capsys.readouterr()

    assert character not in shown.out + shown.err
    assert shown.out.count(escaped) == 4
    assert escaped in shown.err
    assert json.loads(shown.out[shown.out.index("{") :]) == {"name": text}
