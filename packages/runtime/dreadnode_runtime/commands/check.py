"""The check of a job's data before the job exists: render everything, train nothing."""

import json
from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.check_rl import Refused, check_rl
from dreadnode_runtime.data.counts import Counts, as_report
from dreadnode_runtime.data.rendering import Rendering, load_rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig, check_trackers, check_warmup, read_config
from dreadnode_runtime.sft.data import fitted, prepare_rows


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Answer whether the job that QUESTION describes can be trained.

    Args:
        question: `model`, `rehearsal`, `tokenizer`, `trainer_type`, `config`, and `datasets`: the
            paths of the `train` and, if there is one, the `eval` file.

    Returns:
        `ok` with counts of rows and tokens, or not `ok` with one sentence and the place in the
        request that it is about.
    """
    if question["trainer_type"] == "rl":
        try:
            return check_rl(question)
        except Refused as refused:
            return _refusal(refused.loc, str(refused))
    if question["trainer_type"] != "sft":
        return _refusal(["trainer_type"], f"There is no loop for {question['trainer_type']} here")
    place, of_eval = ["config"], None
    try:
        config = read_config(SftConfig, question["config"])
        place = ["config", "track"]
        check_trackers(config)
        place = ["model"]
        rendering = load_rendering(
            question["model"], rehearsal=question["rehearsal"], tokenizer=question["tokenizer"]
        )
        place = ["config", "dataset_ref"]
        rendering = fitted(Path(question["datasets"]["train"]), rendering, config)
        counts = _count(question["datasets"]["train"], rendering, config)
        if path := question["datasets"].get("eval"):
            place = ["config", "eval_dataset_ref"]
            of_eval = _count(path, rendering, config)
        place = ["config", "warmup_steps"]
        check_warmup(config, config.total_steps(counts.sequences or counts.usable))
    except JobFailed as refusal:
        return _refusal(place, str(refusal))
    return {
        "ok": True,
        **as_report(counts),
        "trained_tokens": counts.trained_tokens,
        **({"evaluation": as_report(of_eval)} if of_eval else {}),
        "renderer": rendering.name,
        "format_notes": rendering.notes,
    }


def answer(question: str) -> str:
    """Return the answer to the JSON text QUESTION, as JSON text."""
    return json.dumps(check(json.loads(question)))


def _count(path: str, rendering: Rendering, config: SftConfig) -> Counts:
    return prepare_rows(Path(path), rendering, config, lambda _: None)


def _refusal(loc: list[str], error: str) -> dict[str, Any]:
    return {"ok": False, "loc": loc, "error": error}
