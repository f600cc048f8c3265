"""`dn train eval` and `dn train result`, by their transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode import ApiClient
from inline_snapshot import snapshot

Dn = Callable[[str], str]
JOB = "01900001-0000-7000-8000-000000000000"


def figure(value: float, low: float, high: float, method: str) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "rows": 40, "method": method}


RESULT = {
    "job_id": JOB,
    "dataset": "exam@1.0.0",
    "split": "validation",
    "rows": 40,
    "confidence": 0.95,
    "models": [
        {
            "name": "Qwen/Qwen3-8B",
            "model": "Qwen/Qwen3-8B",
            "base_model": "Qwen/Qwen3-8B",
            "rows": 40,
            "loss": figure(2.5, 2.25, 2.75, "student_t_of_ratio"),
            "reward": figure(0.25, 0.14, 0.4, "wilson"),
        },
        {
            "name": "sums@best",
            "model": "Qwen/Qwen3-8B",
            "base_model": "Qwen/Qwen3-8B",
            "step": 20,
            "rows": 40,
            "loss": figure(1.5, 1.25, 1.75, "student_t_of_ratio"),
            "reward": figure(0.75, 0.6, 0.86, "wilson"),
            "truncated": 2,
        },
    ],
    "comparisons": [
        {
            "model": 1,
            "metric": "reward",
            "difference": figure(0.5, 0.33, 0.67, "student_t_of_paired_differences"),
            "wins": 21,
            "ties": 18,
            "losses": 1,
            "changed": [
                {
                    "row": 3,
                    "baseline": 0.0,
                    "value": 1.0,
                    "question": "What is 3 + 3?",
                    "baseline_completion": None,
                    "completion": "#### 6\n\x1b[31m",
                }
            ],
        }
    ],
}
ROWS = [
    {"row": 1, "model": "base", "loss": 2.5, "loss_tokens": 4},
    {"row": 1, "model": "sums", "loss": 1.5, "loss_tokens": 4, "rewards": [0, 1]}
    | {"completions": ["no, 5", None]},
]


@pytest.fixture
def finished(api: Any, make_job: Any) -> None:
    """A job of the name `sums`, and an evaluation that has ended."""
    api.jobs = [make_job(name="sums", status="completed")]
    api.evaluation = RESULT
    api.files = {"evaluation/rows.jsonl": "".join(json.dumps(r) + "\n" for r in ROWS).encode()}


def test_models_are_evaluated_side_by_side(dn: Dn, api: Any, finished: None) -> None:
    said = dn(
        "train eval sums last@best 0190@step-000010 --dataset exam@1.0.0 --split validation "
        "--reward gsm8k_v1 --samples 4 --temperature 0.8 --max-tokens 1K --limit 40 --tag weekly"
    )

    (created,) = [json.loads(each.content) for each in api.requests if each.method == "POST"]
    assert created == snapshot(
        {
            "tags": ["weekly"],
            "config": {
                "models": [
                    "sums",
                    "01900001-0000-7000-8000-000000000000@best",
                    "01900001-0000-7000-8000-000000000000@step-000010",
                ],
                "dataset_ref": {"name": "exam", "version": "1.0.0"},
                "split": "validation",
                "limit": 40,
                "reward_recipe": {"name": "gsm8k_v1", "params": {}},
                "samples": 4,
                "temperature": 0.8,
                "max_tokens": 1024,
            },
            "backend": "tinker",
            "trainer_type": "eval",
        }
    )
    assert said == snapshot("""\
exit: 0
--- stdout
MODEL          STEP  LOSS                  REWARD                ROWS  TRUNCATED
Qwen/Qwen3-8B        2.500 [2.250, 2.750]  0.250 [0.140, 0.400]    40
sums@best      20    1.500 [1.250, 1.750]  0.750 [0.600, 0.860]    40  2

sums@best against Qwen/Qwen3-8B, reward: +0.500 [+0.330, +0.670]; 21 better, 18 equal, 1 worse
  row 3: 0 -> 1: What is 3 + 3?
    before: (the reasoning never ended)
    now:    #### 6 \\u001b[31m

40 rows of exam@1.0.0 (validation); 95% confidence intervals: Student's t over rows, of total loss to total tokens; Wilson's for rewards of 0 and 1; Student's t over the differences of rows
--- stderr
submitted evaluation 01900001-0000-7000-8000-000000000000
completed
""")


def test_the_result_is_json_and_csv_too(dn: Dn, api: Any, finished: None, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"

    said = dn(f"train result {JOB} --json --csv {file}")
    again = dn(f"train result {JOB} --csv {file}")

    assert '"wins": 21' in said
    assert file.read_text() == snapshot("""\
row,model,loss,loss_tokens,sample,reward,completion
1,base,2.5,4,,,
1,sums,1.5,4,1,0.0,"no, 5"
1,sums,1.5,4,2,1.0,
""")
    assert again.startswith("exit: 1")
    assert "already exists; name another file" in again


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--dataset exam@1.0.0", "name at least one model"),
        ("sums --dataset exam@1.0.0 --samples 0", "`--samples` must be at least 1, not 0"),
        ("sums --dataset exam@1.0.0 --csv x.csv --no-wait", "`--csv` needs the result"),
        ("sums --dataset exam@1.0.0 --reward-params {}", "has no effect without"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_sent(
    dn: Dn, api: Any, finished: None, arguments: str, sentence: str
) -> None:
    said = dn(f"train eval {arguments}")

    assert said.startswith("exit: 2")
    assert sentence in said
    assert all(each.method == "GET" for each in api.requests)


def test_a_paid_evaluation_shows_its_price_and_asks(dn: Dn, api: Any, finished: None) -> None:
    api.is_paid = True

    said = dn("train eval sums --dataset exam@1.0.0")

    assert said.startswith("exit: 2")
    assert "this job costs money ($10.80), and there is no terminal to ask on" in said


def test_the_client_returns_a_typed_result(api: Any, finished: None) -> None:
    with ApiClient(
        "http://server.test",
        "dn_test",
        organization="main",
        workspace="default",
        transport=api.transport,
    ) as client:
        result = client.evaluate("sums", "exam@1.0.0", reward="gsm8k_v1", samples=4)
        rows = client.get_evaluation_rows(JOB)

    assert result.models[1].reward is not None
    assert result.models[1].reward.value == 0.75
    assert (result.comparisons[0].wins, rows[1].completions) == (21, ["no, 5", None])
    assert repr(result) == snapshot(
        "<EvaluationResult of 40 rows: Qwen/Qwen3-8B: 2.5 loss; Qwen/Qwen3-8B: 0.25 reward; sums@best: 1.5 loss; sums@best: 0.75 reward>"
    )


def test_an_evaluation_that_runs_is_named_in_words(dn: Dn, api: Any, finished: None) -> None:
    body = {"code": 409, "type": "conflict_error", "detail": "The evaluation is running"}
    api.failures = [httpx2.Response(409, json=body)]

    assert "error: The evaluation is running" in dn(f"train result {JOB}")
