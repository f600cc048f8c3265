"""The check of a dataset when it is pushed: everything that its rows alone decide.

It loads no model and no tokenizer, and none of the libraries that do.
"""

import json
from pathlib import Path

from dreadnode_runtime.data.survey import survey_or_refusal


def answer(question: str) -> str:
    """Return the answer to the JSON text QUESTION, as JSON text.

    The question has the `path` of a JSONL file and how many rows to read at most, `rows`. The
    answer is `ok` with `notes`, one sentence each, or not `ok` with an `error`.
    """
    asked = json.loads(question)
    return json.dumps(survey_or_refusal(Path(asked["path"]), int(asked["rows"])))
