"""The check of a job's data before the job exists: render everything, train nothing."""

import json
from typing import Any

from dreadnode_runtime.commands.check_eval import check_eval
from dreadnode_runtime.commands.check_rl import check_rl
from dreadnode_runtime.commands.check_sft import check_sft
from dreadnode_runtime.commands.refused import Refused

CHECKS = {"sft": check_sft, "rl": check_rl, "eval": check_eval}


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Answer whether the job that QUESTION describes can be trained.

    Args:
        question: `model`, `rehearsal`, `tokenizer`, `trainer_type`, `config`, and `datasets`: the
            paths of the `train`, the `trajectories` and the `eval` files, of those that there are;
            `formats`, of an evaluation, the chat format of each model; and `show`, the number of a
            row to return as text.

    Returns:
        `ok` with a report on rows and tokens, or not `ok` with one sentence and the place in the
        request that it is about.
    """
    kind = question["trainer_type"]
    if kind not in CHECKS:
        return _refusal(["trainer_type"], f"There is no loop for {kind} here")
    try:
        return CHECKS[kind](question)
    except Refused as refused:
        return _refusal(refused.loc, str(refused))


def answer(question: str) -> str:
    """Return the answer to the JSON text QUESTION, as JSON text."""
    return json.dumps(check(json.loads(question)))


def _refusal(loc: list[str], error: str) -> dict[str, Any]:
    return {"ok": False, "loc": loc, "error": error}
