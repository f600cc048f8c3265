"""`dn train check`, and the price of a job that costs money."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]
SFT = "train sft --model Qwen/Qwen3-8B --dataset a@1"
REPORT: dict[str, Any] = {
    "report": {
        "rows": 4,
        "usable": 3,
        "tokens": 30,
        "renderer": "qwen3",
        "dropped": {"no answer": 1},
        "first_dropped": {"no answer": [2]},
        "lengths": {
            "min": 7, "median": 9, "mean": 10.0, "p95": 14, "max": 14,
            "bins": [
                {"least": 5, "most": 9, "rows": 2},
                {"least": 10, "most": 14, "rows": 1},
            ],
        },
        "plan": {
            "steps": 3, "rows_per_epoch": 3, "rows_per_step": 16, "evaluations": 2,
            "at_least": {"train": 27}, "at_most": {"train": 27},
        },
        "reward_samples": [
            {"row": 1, "kind": "right", "completion": "4", "reward": 1.0},
            {"row": 1, "kind": "empty", "completion": "", "reward": None, "error": "it raised"},
        ],
        "shown": {
            "row": 1,
            "sequences": [
                {
                    "tokens": 9,
                    "tokens_not_shown": 5,
                    "parts": [
                        {"text": "user: hi\nassistant: ", "trained": False},
                        {"text": "ho\x1b[31m", "trained": True},
                    ],
                }
            ],
        },
    },
    "warnings": [{"code": "few_rows", "message": "A step takes 16 rows, and there are only 3"}],
}  # fmt: skip


class Terminal(io.StringIO):
    """A stream that a person reads and writes."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def posts(api: Any) -> Callable[[], list[str]]:
    """The calls that could have changed something."""
    return lambda: [each.rpartition("/")[2] for each in api.asked if each.startswith("POST")]


def test_a_check_shows_the_data_the_warnings_and_the_price(
    dn: Dn, api: Any, posts: Callable[[], list[str]]
) -> None:
    api.report = REPORT

    said = dn("train check sft --model Qwen/Qwen3-8B --dataset a@1 --show 1")

    assert posts() == ["preflight"]
    assert dict(api.requests[-1].url.params) == {"show": "1"}
    assert said == snapshot("""\
exit: 0
--- stdout
model     Qwen/Qwen3-8B, context 32,768 tokens
format    qwen3
data      3 of 4 rows, 30 tokens
dropped   1 row: no answer (row 2)
lengths   median 9, 95 % up to 14, longest 14 tokens
            5 to 9  ██████████████████████████████ 2
          10 to 14  ███████████████ 1
steps     3, 2 evaluations
reward    row 1, right completion “4”: 1
          row 1, empty completion: failed: it raised
warnings  A step takes 16 rows, and there are only 3
price     free on this server's own engine; hosted Tinker: $10.80
          27,000,000 train tokens at $0.40 per million
          rates of 2026-06; Tinker's console is authoritative

row 1 as it is trained, with the ⟦tokens that carry loss⟧ marked:

  user: hi
  assistant: ⟦ho\\u001b[31m⟧
  … 5 more tokens
--- stderr
no errors: the job would be accepted
""")


def test_a_paid_job_is_refused_in_a_pipe(dn: Dn, api: Any, posts: Callable[[], list[str]]) -> None:
    api.is_paid = True

    said = dn(SFT)

    assert posts() == ["preflight"]
    assert said == snapshot("""\
exit: 2
--- stdout
--- stderr
price: $10.80
  27,000,000 train tokens at $0.40 per million
  rates of 2026-06; Tinker's console is authoritative
error: this job costs money ($10.80), and there is no terminal to ask on; add `--yes` to start it, or `--rehearse` to try it for free
""")


def test_a_retry_of_a_paid_job_is_agreed_to_like_the_job(dn: Dn, api: Any) -> None:
    api.is_paid = True
    command = "train retry 01900001-0000-7000-8000-000000000000"

    refused = dn(command)
    agreed = dn(f"{command} --yes")

    assert refused.startswith("exit: 2")
    assert " for the whole job when it was submitted\n  a retry pays for" in refused
    assert refused.endswith("there is no terminal to ask on; add `--yes` to start it\n")
    assert agreed.startswith("exit: 0")
    assert [each for each in api.asked if each.endswith("/retry")] == api.asked[-1:]


def test_a_paid_job_starts_with_yes_and_shows_its_price(
    dn: Dn, api: Any, posts: Callable[[], list[str]]
) -> None:
    api.is_paid = True

    said = dn(f"{SFT} --yes")

    assert posts() == ["preflight", "jobs"]
    assert said.partition("--- stderr")[2] == snapshot("""\

price: $10.80
  27,000,000 train tokens at $0.40 per million
  rates of 2026-06; Tinker's console is authoritative
hint: `dn train wait 01900001-0000-7000-8000-000000000000` follows it
""")


@pytest.mark.parametrize(
    ("answer", "starts"), [("y", True), ("YES", True), ("n", False), ("", False)]
)
def test_a_paid_job_asks_on_a_terminal(
    dn: Dn,
    api: Any,
    posts: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    starts: bool,
) -> None:
    api.is_paid = True
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())

    said = dn(SFT)

    assert ("jobs" in posts()) is starts
    assert said.startswith("exit: 0" if starts else "exit: 1")


@pytest.mark.parametrize(("command", "paid"), [(SFT, False), (f"{SFT} --rehearse", True)])
def test_a_free_job_never_asks(
    dn: Dn, api: Any, posts: Callable[[], list[str]], command: str, paid: bool
) -> None:
    api.is_paid = paid

    said = dn(command)

    assert posts() == ["jobs"]
    assert said.startswith("exit: 0")


def test_an_unknown_rate_gives_no_total(dn: Dn, api: Any, make_price: Any) -> None:
    reason = "The catalog has no published rate of Qwen/Qwen3-8B for `train` tokens"
    price = make_price(reason=reason)
    price["at_most"]["usd"] = price["rates"]["train"] = price["rates"]["as_of"] = None
    api.report = {"price": price}

    said = dn("train check sft --model Qwen/Qwen3-8B --dataset a@1")

    assert f"unknown: {reason}" in said
    assert "27,000,000 train tokens at an unknown rate" in said


def test_models_are_compared_in_one_table(dn: Dn, api: Any, make_price: Any) -> None:
    rough = make_price(
        is_exact=False, tokenizer={"is_own": False, "error": 0.25, "explanation": "…"}
    )
    models = [("Qwen/Qwen3-8B", "active", make_price()), ("meta-llama/Old", "retired", rough)]
    api.report = {
        "comparison": [
            {
                "model": model,
                "status": status,
                "available": status == "active",
                "context_length": 32768,
                "fits": status == "active",
                "price": price,
            }
            for model, status, price in models
        ]
    }

    said = dn("train estimate sft --model Qwen/Qwen3-8B --dataset a@1 --compare")

    assert dict(api.requests[-1].url.params) == {"compare": "true"}
    assert said == snapshot("""\
exit: 0
--- stdout
MODEL           PRICE   ERROR  CONTEXT  FITS       STATE      RATES OF
Qwen/Qwen3-8B   $10.80          32,768  yes        available  2026-06
meta-llama/Old  $10.80  25%     32,768  too short  retired    2026-06
--- stderr
hint: estimates of other tokenizers are rough; `dn train check` on a model is exact for it
""")


def test_a_price_that_changes_before_the_answer_is_asked_about_again(
    dn: Dn,
    api: Any,
    make_price: Any,
    posts: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dearer = make_price()
    dearer["at_most"] = dearer["at_least"] = {**dearer["at_most"], "usd": "21.6"}

    class Hesitant(Terminal):
        def readline(self, size: int | None = -1, /) -> str:
            api.report = {"price": dearer}
            return super().readline()

    api.is_paid = True
    monkeypatch.setattr(sys, "stdin", Hesitant("y\nn\n"))
    asked = Terminal()
    monkeypatch.setattr(sys, "stderr", asked)

    said = dn(SFT)

    assert said.startswith("exit: 1")
    assert "jobs" not in posts()
    lines = [each for each in asked.getvalue().splitlines() if not each.startswith("  ")]
    assert lines == snapshot(
        [
            "price: $10.80",
            "Start this job? [y/N] the price has changed since it was shown",
            "price: $21.60",
            "Start this job? [y/N] error: nothing was started",
        ]
    )
