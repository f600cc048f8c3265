"""The check before a job exists: everything is rendered, nothing is trained."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.commands.check import check

ROWS = [
    {"prompt": "hi", "answer": "ho"},
    {"text": "nothing"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a" * 99}]},
]
TEXT_ONLY = "no conversation: the row has `text` only; use `format: text` to train on plain text"


@pytest.fixture
def question(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    ref = {"name": "talk", "version": "1.0.0"}
    return {
        "model": "Qwen/Qwen3-8B",
        "rehearsal": True,
        "trained_model": "stand-in/tiny",
        "tokenizer": str(tiny_model),
        "trainer_type": "sft",
        "config": complete("sft", {"dataset_ref": ref, "max_sequence_length": 100}),
        "datasets": {"train": str(train), "eval": None},
    }


def test_the_check_counts_rows_and_tokens(question: dict[str, Any]) -> None:
    answer = check(question)

    assert answer == {
        "ok": True,
        "rows": 3,
        "usable": 2,
        "dropped": {TEXT_ONLY: 1},
        "first_dropped": {TEXT_ONLY: [2]},
        "unread": {},
        "notes": {},
        "tokens": answer["tokens"],
        "trained_tokens": answer["trained_tokens"],
        "truncated": 1,
        "lengths": answer["lengths"],
        "duplicates": {"count": 0, "rows": []},
        "renderer": "stand-in/chat-template",
        "format_notes": [],
        "usual_learning_rate": pytest.approx(4.7e-4, rel=0.02),
        "plan": answer["plan"],
        "characters_per_token": answer["characters_per_token"],
        "shown": answer["shown"],
    }
    assert 0 < answer["trained_tokens"] < answer["tokens"] <= 200
    assert answer["lengths"]["max"] == 100
    assert sum(each["rows"] for each in answer["lengths"]["bins"]) == 2


def test_the_plan_is_what_training_sends(question: dict[str, Any]) -> None:
    config = {**question["config"], "epochs": 3, "batch_size": 1}

    answer = check(question | {"config": config})

    # The last token of each of the two rows is only a target.
    tokens = {"train": 3 * (answer["tokens"] - 2)}
    assert answer["plan"] == {
        "steps": 6,
        "rows_per_epoch": 2,
        "rows_per_step": 1,
        "evaluations": 0,
        "evaluation_tokens": 0,
        "at_least": tokens,
        "at_most": tokens,
    }


def test_equal_rows_are_named_within_a_dataset_and_across_datasets(
    question: dict[str, Any], tmp_path: Path
) -> None:
    rows = [ROWS[0], {"prompt": "who", "answer": "me"}, ROWS[0], ROWS[1], ROWS[0]]
    exam = [{"prompt": "why", "answer": "so"}, {"prompt": "who", "answer": "me"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in exam))
    question["datasets"]["eval"] = str(tmp_path / "exam.jsonl")

    answer = check(question)

    assert answer["duplicates"] == {
        "count": 2,
        "rows": [{"row": 3, "of": {"row": 1}}, {"row": 5, "of": {"row": 1}}],
    }
    assert answer["evaluation"]["shared"] == {"count": 1, "rows": [2]}


@pytest.mark.parametrize(
    ("show", "row", "answered"), [(None, 1, "ho"), (3, 3, "aaa"), (2, None, "")]
)
def test_a_row_is_shown_as_text_with_its_trained_tokens(
    question: dict[str, Any], show: int | None, row: int | None, answered: str
) -> None:
    shown = check(question | {"show": show})["shown"]

    if row is None:
        assert shown is None
        return
    (sequence,) = shown["sequences"]
    assert shown["row"] == row
    assert answered in "".join(each["text"] for each in sequence["parts"] if each["trained"])
    assert "hi" in sequence["parts"][0]["text"]
    assert not sequence["parts"][0]["trained"]


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"trainer_type": "dpo"}, ["trainer_type"]),
        ({"model": "nobody/Model", "rehearsal": False}, ["model"]),
    ],
)
def test_a_refusal_is_one_sentence_and_names_the_location(
    question: dict[str, Any], change: dict[str, Any], loc: list[str]
) -> None:
    answer = check(question | change)

    assert answer["ok"] is False
    assert answer["loc"] == loc
    assert "\n" not in answer["error"]
    assert not answer["error"].endswith(".")
    assert "[" not in answer["error"]


def test_a_warm_up_longer_than_the_job_is_refused(question: dict[str, Any]) -> None:
    config = {**question["config"], "warmup_steps": 3, "epochs": None}

    refused = check(question | {"config": config | {"steps": 3}})
    taken = check(question | {"config": config | {"steps": 4}})

    assert refused["loc"] == ["config", "warmup_steps"]
    assert "the job has only 3 steps" in refused["error"]
    assert taken["ok"]


def test_a_dataset_in_which_no_row_renders_is_refused(
    question: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n' * 9)

    assert check(question) == {
        "ok": False,
        "loc": ["config", "dataset_ref"],
        "error": "None of the 9 rows can be trained on; 9 of them: "
        "no messages, and no prompt with an answer; its fields are `a` (rows 1, 2, 3, 4, 5 …)",
    }


def test_the_process_writes_its_result_to_stdout_only_and_needs_no_keys(
    question: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dreadnode_runtime", "check"],
        input=json.dumps(question),
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usable"] == 2


def test_the_evaluation_data_is_checked_too(question: dict[str, Any], tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_text('{"prompt": "hi"}\n')
    question["datasets"]["eval"] = str(exam)

    answer = check(question)

    assert answer["loc"] == ["config", "eval_dataset_ref"]
    assert "no answer" in answer["error"]


@pytest.mark.parametrize("packed", [False, True])
def test_plain_text_is_checked_like_it_is_trained(
    question: dict[str, Any], tmp_path: Path, packed: bool
) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "The pier is open."}\n' * 40)
    config = {**question["config"], "format": "text", "packed": packed, "max_sequence_length": 32}

    answer = check(question | {"config": config})

    assert (answer["ok"], answer["usable"]) == (True, 40)
    assert answer["trained_tokens"] < answer["tokens"]


def test_trajectories_are_checked_with_the_training_dataset_and_alone(
    question: dict[str, Any], tmp_path: Path
) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps(ROWS[0]) + "\n")
    alone = check(question)

    both = check(question | {"datasets": {**question["datasets"], "trajectories": [str(more)]}})
    only = check(question | {"datasets": {"train": None, "trajectories": [str(more)]}})

    assert (both["rows"], both["usable"]) == (alone["rows"] + 1, alone["usable"] + 1)
    assert (only["ok"], only["rows"]) == (True, 1)


def test_unusable_trajectories_are_named(question: dict[str, Any], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n')

    answer = check(question | {"datasets": {**question["datasets"], "trajectories": [str(bad)]}})

    assert answer["loc"] == ["config", "trajectory_dataset_refs"]
    assert answer["error"].startswith("trajectory dataset 1: None of the 1 rows can be trained on")


@pytest.mark.parametrize(
    ("own", "chosen", "refusal"),
    [
        ("tiny", "tiny", None),
        ("tiny", "other", "and that of the engine's model"),
        ("Qwen/Qwen3-8B", "tiny", "151,643"),
        ("tiny", "damaged", "finds no tokenizer"),
    ],
)
def test_a_job_can_name_the_tokenizer_of_its_model_and_no_other(
    own: str,
    chosen: str,
    refusal: str | None,
    question: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    folders = {"tiny": tiny_model, "other": tmp_path / "other", "damaged": tmp_path / "damaged"}
    for name in ("other", "damaged"):
        folders[name].mkdir()
        text = (tiny_model / "tokenizer.json").read_text()
        changed = text.replace('"<|im_end|>"', '"<|im_done|>"') if name == "other" else text[:99]
        (folders[name] / "tokenizer.json").write_text(changed)
        config = (tiny_model / "tokenizer_config.json").read_text()
        (folders[name] / "tokenizer_config.json").write_text(config)
    question |= {"rehearsal": False, "tokenizer": str(folders.get(own, own))}
    question["config"] |= {"tokenizer": str(folders[chosen])}

    answer = check(question)

    if refusal is None:
        assert answer["ok"]
        assert answer["renderer"] == "qwen3"
    else:
        assert refusal in answer["error"]
        assert answer["loc"] == ["config", "tokenizer"]
