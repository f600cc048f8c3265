"""The live view of a job: what it shows, and what events, outages and narrow terminals change."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode.cli.train.live_view import LiveView
from dreadnode.cli.train.run_state import RunState
from dreadnode.training.jobs import JobEvent, LogEntry, TrainingJob
from inline_snapshot import snapshot
from rich.console import Console

MakeJob = Callable[..., dict[str, Any]]
NOW = "2026-11-22T03:00:{:02}Z"


def event(number: int, type_: str, message: str | None = None, **data: Any) -> JobEvent:
    fields = {"id": number, "type": type_, "timestamp": NOW.format(number), "message": message}
    return JobEvent.model_validate({**fields, "data": data})


def step(number: int, loss: float | None, **data: Any) -> JobEvent:
    metrics = {"steps": [number], "train/loss": [loss]}
    fields = {"step": number, "steps": 8, "tokens_total": 100 * number, "seconds_left": 65.0}
    return event(number, "step_complete", metrics=metrics, **fields, **data)


class Shown:
    """A live view without a terminal, whose frames a test reads as text."""

    def __init__(self, job: dict[str, Any], **console: Any) -> None:
        log = [LogEntry(timestamp=NOW.format(0), level="info", message="Training", cursor=3)]
        self.time = 0.0
        self.state = RunState.of(TrainingJob.model_validate(job), log, 5)
        self.state.clock = lambda: self.time
        size = {"width": 60, "height": 24, **console}
        self.console = Console(file=io.StringIO(), **size)
        self.view = LiveView(self.state, self.console)

    def __str__(self) -> str:
        with self.console.capture() as captured:
            self.console.print(self.view.frame())
        lines = captured.get().replace("\u2800", " ").splitlines()
        return "\n".join(line.rstrip() for line in lines) + "\n"


@pytest.fixture
def running(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    monkeypatch.setattr("dreadnode.cli.train.watch.when", lambda moment: f"{moment:%H:%M:%S}")

    def running(**console: Any) -> Shown:
        metrics = {
            "steps": [1, 2],
            "train/loss": [4.0, 3.0],
            "eval/steps": [2],
            "eval/loss_history": [3.5],
        }
        progress = {"step": 2, "steps": 8, "loss": 3.0, "eval_loss": 3.5, "tokens": 200}
        cost = {"paid": True, "usd": "0.5", "list_usd": "0.5", "limit_usd": "2"}
        tokens = {"tokens": {"train": 200}, "list_usd_by_kind": {}, "earlier_usd": "0"}
        return Shown(
            make_job(
                name="harbour", status="running", phase="training", attempt=2, metrics=metrics,
                progress=progress, cost={**cost, **tokens},
            ),
            **console,
        )  # fmt: skip

    return running


def test_a_view_shows_phase_progress_chart_pace_cost_and_last_lines(
    running: Callable[..., Shown],
) -> None:
    shown = running()
    for number, loss in ((3, 2.5), (4, None), (5, 2.0)):
        shown.view.add(step(number, loss))
    shown.view.add(event(6, "checkpoint_saved", "Saved a \x1b[31mcheckpoint after step 5"))

    assert str(shown) == snapshot("""\
harbour  sft  Qwen/Qwen3-8B
running (training)  attempt 2
━━━━━━━━━━━━━━━━━━━━━━━━━                5/8  62%  1:05 left
loss 2.0000  eval loss 3.5000  500 tokens  100 tokens/s  1 …
cost $0.50 of $2.00
4 ┤a⠢⢄⡀
  │   ⠈⠑⠢⢄
  │       ⠉⠒⠤⣀   o
  │           ⠉⠒⠤a
3 ┤               ⠉⠉⠒⠢⠤⢄⣀
  │                      ⠉⠉⠒⠢⠤⢄a⣀
  │                              ⠉⠉⠉⠑⠒⠒⠒⠤⠤⠤⢄⣀⣀⣀⡀
2 ┤                                            ⠈⠉⠉⠉⠒⠒⠒⠢⠤⠤⠤⣀⣀
  └─────────────────────────────────────────────────────────
   1                                                       5
  a  train/loss
  o  eval/loss

03:00:00  info     Training
03:00:06  info     Saved a \\u001b[31mcheckpoint after step 5
""")


def test_a_lost_connection_is_said_until_it_is_back(running: Callable[..., Shown]) -> None:
    shown = running()
    shown.view.connected(False)
    shown.time = 12.0
    shown.view.connected(False)
    lost = str(shown)

    shown.view.connected(True)

    assert "connection lost 12 s ago; reconnecting" in lost
    assert "connection" not in str(shown)


def test_an_attempt_that_resumes_takes_back_the_steps_after_its_checkpoint(
    running: Callable[..., Shown],
) -> None:
    shown = running()
    for number in (3, 4):
        shown.view.add(step(number, 9.0))

    shown.view.add(event(7, "training_start", "Resumed", start=3))
    shown.view.add(step(4, 2.0))

    (curve, _) = shown.state.curves
    assert dict(zip(*curve.series, strict=True)) == {1: 4.0, 2: 3.0, 3: 9.0, 4: 2.0}


def test_an_older_record_does_not_take_back_the_progress_of_events(
    running: Callable[..., Shown],
) -> None:
    shown = running()
    older = shown.state.job
    shown.view.add(step(5, 2.0))

    shown.view.refresh(older.model_copy(update={"phase": "saving"}))

    assert "5/8" in str(shown)
    assert "running (saving)" in str(shown)


@pytest.mark.parametrize(("width", "height"), [(30, 12), (120, 50), (80, 24)])
def test_a_view_fits_the_terminal(running: Callable[..., Shown], width: int, height: int) -> None:
    shown = running(width=width, height=height)
    for number in range(3, 9):
        shown.view.add(event(number, "log", f"line {number} " + "x" * 200))

    lines = str(shown).splitlines()

    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 21)


def test_no_color_leaves_words_and_letters(
    running: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = running(force_terminal=True)

    text = str(shown)

    assert "running (training)" in text
    assert "\x1b[3" not in text
