"""`dn train sft`, by its transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]
ROW = '{"prompt": "Where?", "response": "Pier 4"}\n'


def sent(api: Any) -> dict[str, Any]:
    """Return the body of the last create."""
    posts = [each for each in api.requests if each.method == "POST"]
    body: dict[str, Any] = json.loads(posts[-1].content)
    return body


def test_a_request_contains_only_the_given_settings(dn: Dn, api: Any) -> None:
    said = dn(
        "train sft --model Qwen/Qwen3-8B --dataset support@1.0.0 --steps 20 --learning-rate 5e-4 "
        "--name 'first try' --tag a --tag b"
    )

    assert sent(api) == snapshot(
        {
            "model": "Qwen/Qwen3-8B",
            "config": {
                "dataset_ref": {"name": "support", "version": "1.0.0"},
                "steps": 20,
                "learning_rate": 0.0005,
            },
            "backend": "tinker",
            "trainer_type": "sft",
            "name": "first try",
            "tags": ["a", "b"],
            "rehearse": False,
            "rehearse_first": False,
        }
    )
    assert said == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  steps 20, learning_rate 0.0005
created   2026-11-22 03:00:00
--- stderr
hint: `dn train wait 01900001-0000-7000-8000-000000000000` follows it
""")


def test_every_setting_of_the_training_loop_has_a_flag(dn: Dn, api: Any) -> None:
    dn(
        "train sft --model Qwen/Qwen3-8B --dataset support@1.0.0 --eval-dataset exam@1.0.0 "
        "--eval-interval 5 --early-stopping-patience 2 --early-stopping-min-delta 0.01 "
        "--learning-rate-schedule cosine --warmup-steps 3 --weight-decay 0.1 --grad-clip-norm 1 "
        "--train-on last_assistant_turn --system-prompt 'Be brief.' --no-shuffle --strict --seed 0"
    )

    assert sent(api)["config"] == {
        "dataset_ref": {"name": "support", "version": "1.0.0"},
        "eval_dataset_ref": {"name": "exam", "version": "1.0.0"},
        "eval_interval": 5,
        "early_stopping_patience": 2,
        "early_stopping_min_delta": 0.01,
        "learning_rate_schedule": "cosine",
        "warmup_steps": 3,
        "weight_decay": 0.1,
        "grad_clip_norm": 1.0,
        "train_on": "last_assistant_turn",
        "system_prompt": "Be brief.",
        "shuffle": False,
        "strict": True,
        "seed": 0,
    }


def test_the_folder_of_a_tokenizer_is_sent_as_an_absolute_path(dn: Dn, api: Any) -> None:
    folder = Path.cwd() / "jobs"
    folder.mkdir()
    (folder / "job.toml").write_text(
        'trainer_type = "sft"\nmodel = "Qwen/Qwen3-8B"\n'
        '[config]\ndataset_ref = "support@1.0.0"\ntokenizer = "qwen3"\n'
    )

    dn("train submit jobs/job.toml")
    of_file = sent(api)["config"]["tokenizer"]
    dn("train sft --model Qwen/Qwen3-8B --dataset support@1.0.0 --tokenizer ../qwen3")
    of_flag = sent(api)["config"]["tokenizer"]

    assert of_file == str(folder / "qwen3")
    assert of_flag == str(Path.cwd().parent / "qwen3")


def test_a_misspelled_model_gets_a_suggestion(dn: Dn) -> None:
    assert dn("train sft --model Qwen/Qwen3-8 --dataset rows@1 --steps 1") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: Unknown training base model 'Qwen/Qwen3-8'.
Did you mean one of: Qwen/Qwen3-8B, Qwen/Qwen3-8B-Base?
""")


def test_a_rehearsal_is_requested_and_shown_as_one(
    dn: Dn, api: Any, make_job: Callable[..., dict[str, Any]]
) -> None:
    api.jobs = [
        make_job(
            rehearsal=True,
            trained_model="stand-in/SmolLM2-135M-Instruct",
            preflight={"rows": 72, "usable": 70, "dropped": {"no answer": 2}, "tokens": 9311},
        )
    ]

    said = dn("train sft --model Qwen/Qwen3-8B --dataset rows@1 --rehearse")

    assert sent(api)["rehearse"] is True
    assert said == snapshot("""\
exit: 0
--- stdout
id       01900001-0000-7000-8000-000000000000
status   queued
model    Qwen/Qwen3-8B (rehearsal on stand-in/SmolLM2-135M-Instruct)
dataset  rows@1
data     70 of 72 rows, 9,311 tokens
dropped  2 rows: no answer
created  2026-11-22 03:00:00
--- stderr
hint: `dn train wait 01900001-0000-7000-8000-000000000000` follows it
""")


def test_a_local_file_is_pushed_first_under_a_version_derived_from_its_content(
    dn: Dn, api: Any
) -> None:
    Path("My Rows.jsonl").write_text(ROW)

    said = dn("train sft --model Qwen/Qwen3-8B --dataset './My Rows.jsonl' --json")

    assert sent(api)["config"]["dataset_ref"] == snapshot(
        {"name": "my-rows", "version": "8440db0f6772"}
    )
    assert said.partition("--- stderr\n")[2] == snapshot(
        "stored My Rows.jsonl as my-rows@8440db0f6772: 1 row, 43 bytes\n"
    )


def test_the_same_file_gets_the_same_version(dn: Dn, api: Any) -> None:
    Path("rows.jsonl").write_text(ROW)
    dn("train sft --model Qwen/Qwen3-8B --dataset rows.jsonl")
    dn("train sft --model Qwen/Qwen3-8B --dataset rows.jsonl")

    assert len(api.datasets) == 1


def test_a_file_that_is_not_json_lines_is_never_sent(dn: Dn, api: Any) -> None:
    Path("rows.jsonl").write_text(ROW + "prompt,response\n")

    said = dn("train sft --model Qwen/Qwen3-8B --dataset rows.jsonl")

    assert api.requests == []
    assert said == snapshot("""\
exit: 1
--- stdout
--- stderr
error: rows.jsonl, line 2: not JSON (Expecting value); JSONL needs one object on each line
""")


def test_a_missing_file_an_empty_one_and_a_ref_without_version_are_refused_before_any_request(
    dn: Dn, api: Any
) -> None:
    Path("empty.jsonl").touch()
    said = "".join(
        dn(f"train sft --model Qwen/Qwen3-8B --dataset {dataset}")
        for dataset in (
            "gone.jsonl",
            "empty.jsonl",
            "support",
            "support@latest",
            "Support@1",
            "a@!",
        )
    )

    assert api.requests == []
    assert said == snapshot("""\
exit: 1
--- stdout
--- stderr
error: gone.jsonl cannot be read: no such file or directory
exit: 1
--- stdout
--- stderr
error: empty.jsonl is empty; JSONL needs one JSON object on each line
exit: 2
--- stdout
--- stderr
error: `support` has no version; write NAME@VERSION, or the path of a file (`dn dataset get support` lists the versions)
exit: 2
--- stdout
--- stderr
error: `support@latest`: a job needs an exact version, because `latest` can change; `dn dataset get support` lists the versions
exit: 2
--- stdout
--- stderr
error: `Support` is not a valid dataset name: use lower-case letters, digits and . _ - only
exit: 2
--- stdout
--- stderr
error: `!` is not a valid version: use at most 64 letters, digits and . + - only
""")


def test_impossible_numbers_are_wrong_arguments(dn: Dn, api: Any) -> None:
    said = dn("train sft --model m --dataset a@1 --batch-size 0")
    said += dn("train sft --model m --dataset a@1 --learning-rate nan")
    said += dn("train sft --model m --dataset a@1 --adam-beta1 1.5")
    said += dn("train sft --model m --dataset a@1 --steps many")
    said += dn("train sft --dataset a@1")

    assert api.requests == []
    assert said == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `--batch-size` must be at least 1, not 0
exit: 2
--- stdout
--- stderr
error: `--learning-rate` must be a finite number, not NaN
exit: 2
--- stdout
--- stderr
error: `--adam-beta1` must be below 1, not 1.5
exit: 2
--- stdout
--- stderr
error: `--steps` must be a whole number, not `many`
hint: `dn train sft --help` lists the arguments
exit: 2
--- stdout
--- stderr
error: `--model` is missing
hint: `dn train sft --help` lists the arguments
""")


def test_a_create_request_carries_an_idempotency_key(
    dn: Dn, api: Any, make_refusal: Callable[..., Any]
) -> None:
    api.failures = [make_refusal(503, "internal_server_error", "Starting")]
    dn("train sft --model Qwen/Qwen3-8B --dataset a@1 --rehearse")
    dn("train sft --model Qwen/Qwen3-8B --dataset a@1 --rehearse")

    first, repeated, second = (each.headers["idempotency-key"] for each in api.requests)
    assert first == repeated
    assert second != first


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        (
            "`lora_rank` is 64, and `Qwen/Qwen3-8B` takes at most 32",
            "`--lora-rank` is 64, and `Qwen/Qwen3-8B` takes at most 32",
        ),
        (
            "`config.learning_rate`: input should be less than or equal to 1",
            "`--learning-rate`: input should be less than or equal to 1",
        ),
        (
            "There is no dataset `support` in this organization; see `dn dataset list`",
            "There is no dataset `support` in this organization; see `dn dataset list`",
        ),
    ],
)
def test_a_refusal_of_the_server_names_the_flag(dn: Dn, api: Any, detail: str, shown: str) -> None:
    body = {"code": 422, "type": "validation_error", "detail": detail}
    api.failures = [httpx2.Response(422, json=body)]

    said = dn("train sft --model Qwen/Qwen3-8B --dataset support@1.0.0")

    assert said.startswith("exit: 1")
    assert f"error: {shown}\n" in said


def test_trajectories_are_sent_with_the_dataset_and_alone(dn: Dn, api: Any) -> None:
    dn("train sft --model m --dataset a@1 --trajectory-dataset b@2 --trajectory-dataset c@3")
    both = sent(api)["config"]
    dn("train sft --model m --trajectory-dataset b@2")

    assert [ref["name"] for ref in both["trajectory_dataset_refs"]] == ["b", "c"]
    assert both["dataset_ref"]["name"] == "a"
    assert sent(api)["config"] == {"trajectory_dataset_refs": [{"name": "b", "version": "2"}]}


def test_a_job_without_data_is_a_wrong_argument(dn: Dn, api: Any) -> None:
    said = dn("train sft --model m")

    assert "error: name the training dataset with `--dataset` or `--trajectory-dataset`\n" in said
    assert api.requests == []
