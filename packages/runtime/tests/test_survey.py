"""What a push says of rows: whether any job can use them, and what is not read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dreadnode_runtime.data.survey import survey, survey_or_refusal

PROMPTS = (
    "These rows hold prompts without an answer to learn (no answer): "
    "use them in reinforcement learning, not in supervised training"
)
TEXT = "These rows hold text, and no conversations: train with `format` `text` or `rendered`"


def written(tmp_path: Path, rows: list[Any]) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_good_rows_are_reported_without_notes(tmp_path: Path) -> None:
    assert survey(written(tmp_path, [{"prompt": "a", "response": "b"}] * 3), 10) == []


@pytest.mark.parametrize(
    ("rows", "notes"),
    [
        ([{"prompt": "a", "response": "b", "docs": "c"}] * 2, ["not read: docs, in 2 of 2 rows"]),
        (
            [{"prompt": "a", "response": "b"}, {"prompt": "a"}],
            ["1 of 2 rows left out: no answer (row 2)"],
        ),
        (
            [{"prompt": "a"}],
            [PROMPTS],
        ),
        (
            [{"text": "a"}],
            [TEXT],
        ),
    ],
)
def test_facts_that_a_user_should_know_are_reported(
    tmp_path: Path, rows: list[Any], notes: list[str]
) -> None:
    assert survey(written(tmp_path, rows), 10) == notes


def test_preference_rows_are_kept_for_their_prompts(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}

    first, second = survey(written(tmp_path, [row]), 10)

    assert "a preference row (`chosen`, `rejected`)" in first
    assert second == "not read: chosen, rejected, in 1 of 1 rows"


def test_only_the_first_rows_are_surveyed_and_the_survey_says_so(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "docs": "c"}] * 9

    assert survey(written(tmp_path, rows), 4) == [
        "of the first 4 rows: not read: docs, in 4 of 4 rows"
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"Frage": "a", "Antwort": "b"}, "its fields are `Frage`, `Antwort` (rows 1, 2)"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "the role `bot`"),
        ({"chosen": "a", "rejected": "b"}, "a preference row"),
        ({"label": 1}, "its fields are `label`"),
    ],
)
def test_rows_that_can_never_be_trained_are_refused(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    answer = survey_or_refusal(written(tmp_path, [row, row]), 10)

    assert answer["ok"] is False
    assert str(answer["error"]).startswith("None of the 2 rows can be trained on; 2 of them: ")
    assert reason in str(answer["error"])


def test_the_survey_does_not_load_slow_libraries(tmp_path: Path) -> None:
    question = json.dumps({"path": str(written(tmp_path, [{"a": 1}])), "rows": 10})
    program = (
        "import runpy, sys; sys.argv = ['dreadnode_runtime', 'rows']\n"
        "try: runpy.run_module('dreadnode_runtime', run_name='__main__')\n"
        "except SystemExit: print({'torch', 'transformers', 'tinker'} & {*sys.modules})"
    )

    said = subprocess.run(
        [sys.executable, "-c", program], input=question, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert json.loads(said[0])["ok"] is False
    assert said[1] == "set()"
