"""The lines that a pipe gets during a wait, and text that could move a terminal's cursor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode.cli.output import Output, say
from dreadnode.cli.train.progress import Lines
from dreadnode.training.chat import ChatMessage
from dreadnode.training.jobs import TrainingJob


def test_a_pipe_gets_the_newest_metrics_in_a_line(
    capsys: pytest.CaptureFixture[str], make_job: Callable[..., dict[str, Any]]
) -> None:
    progress = {"step": 4, "steps": 8, "loss": 2.0, "eval_loss": 2.5, "tokens": 80}
    job = make_job(status="running", phase="training", progress={**progress, "seconds_left": 9})

    Lines()(TrainingJob.model_validate(job))

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
