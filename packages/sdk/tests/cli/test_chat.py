"""`dn train chat`, line by line and in one go."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put what somebody types in the place of stdin."""
    return lambda text: monkeypatch.setattr("sys.stdin", Keyboard(text))


def test_one_message_gets_one_completion(dn: Dn) -> None:
    assert dn("train chat 01900001-0000-7000-8000-000000000000 --message Hello") == snapshot("""\
exit: 0
--- stdout
Hello 1
--- stderr
Qwen/Qwen3-8B after step 10 (step-000010)
""")


def test_a_rehearsal_is_never_shown_as_the_model(dn: Dn, api: Any, make_job: Any) -> None:
    api.jobs = [make_job(rehearsal=True, trained_model="stand-in/tiny")]

    assert dn(
        "train chat 01900001-0000-7000-8000-000000000000 --message Hello --max-tokens 1"
    ) == snapshot("""\
exit: 0
--- stdout
Hello 1
--- stderr
rehearsal: this is the stand-in stand-in/tiny after step 10 (step-000010), not Qwen/Qwen3-8B
(cut off after 1 tokens; raise `--max-tokens`)
""")


def test_a_terminal_keeps_one_conversation_until_it_is_reset(
    dn: Dn, typed: Callable[[str], None]
) -> None:
    typed("Hello\n\nAnd then?\n/reset\nAgain\n")

    assert dn("train chat 01900001-0000-7000-8000-000000000000 --system 'Be brief.'") == snapshot("""\
exit: 0
--- stdout
Hello 2
And then? 4
Again 2
--- stderr
`/reset` starts a new conversation, Ctrl-D ends it
> Qwen/Qwen3-8B after step 10 (step-000010)
> > > > > \n\
""")


def test_a_conversation_keeps_the_checkpoint_that_it_started_with(
    dn: Dn, api: Any, typed: Callable[[str], None]
) -> None:
    typed("Hello\nAnd then?\n")

    dn("train chat 01900001-0000-7000-8000-000000000000")

    asked = [json.loads(each.content).get("checkpoint") for each in api.requests if each.content]
    assert asked == [None, "tinker://run-1/weights/step-000010"]


def test_a_pipe_gets_json_lines(dn: Dn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd then?\n"))

    said = dn("train chat 01900001-0000-7000-8000-000000000000 --checkpoint best --json")

    lines = said.partition("--- stdout\n")[2].partition("--- stderr")[0].splitlines()
    assert [json.loads(line)["message"]["content"] for line in lines] == ["Hello 1", "And then? 3"]


def test_a_refused_message_does_not_end_a_conversation_at_a_terminal(
    dn: Dn, api: Any, make_refusal: Any, typed: Callable[[str], None]
) -> None:
    refused = make_refusal(422, "validation_error", "There is no room for an answer")
    api.chat_failures = [refused]
    typed("Hello\nHello again\n")

    said = dn("train chat 01900001-0000-7000-8000-000000000000")

    assert "error: There is no room for an answer" in said
    assert "Hello again 1" in said
    assert said.startswith("exit: 0")


def test_a_refused_single_message_fails_the_command(dn: Dn, api: Any, make_refusal: Any) -> None:
    api.failures = [make_refusal(409, "conflict_error", "The job has no checkpoint yet")]

    assert dn("train chat 01900001-0000-7000-8000-000000000000 --message Hello") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The job has no checkpoint yet
""")


def test_an_empty_message_is_a_wrong_argument(dn: Dn) -> None:
    assert dn("train chat 01900001-0000-7000-8000-000000000000 --message ''").startswith("exit: 2")


def test_control_characters_of_a_name_are_not_sent_to_the_terminal(dn: Dn, api: Any) -> None:
    api.jobs[0]["trained_model"] = "stand-in/\x1b[2Jgone"
    api.jobs[0]["rehearsal"] = True

    said = dn("train chat 01900001-0000-7000-8000-000000000000 --message Hello")

    assert "\x1b" not in said
    assert "the stand-in stand-in/\\u001b[2Jgone after step 10" in said


def test_the_reasoning_is_shown_apart_from_the_reply(dn: Dn, api: Any) -> None:
    api.chat_reasoning = ("One\nand", " one")

    assert dn("train chat 01900001-0000-7000-8000-000000000000 --message Hello") == snapshot("""\
exit: 0
--- stdout
Hello 1
--- stderr
Qwen/Qwen3-8B after step 10 (step-000010)
| One
| and one
""")


def test_an_error_after_the_first_words_is_not_part_of_the_reply(dn: Dn, api: Any) -> None:
    detail = {"code": 502, "type": "bad_gateway_error", "detail": "The engine was away"}
    api.chat_end = {"error": detail}

    assert dn("train chat 01900001-0000-7000-8000-000000000000 --message Hello") == snapshot("""\
exit: 1
--- stdout
Hello 1
--- stderr
Qwen/Qwen3-8B after step 10 (step-000010)
error: The engine was away
""")
