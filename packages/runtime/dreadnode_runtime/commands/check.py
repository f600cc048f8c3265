"""The check of a job's data before the job exists: render everything, train nothing."""

import json
from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.check_rl import Refused, check_rl
from dreadnode_runtime.data.counts import Counts, as_report
from dreadnode_runtime.data.rendering import load_rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig, check_trackers, check_warmup, read_config
from dreadnode_runtime.sft.data import RowFile, fitted, prepare_file


def check(question: dict[str, Any]) -> dict[str, Any]:
    """Answer whether the job that QUESTION describes can be trained.

    Args:
        question: `model`, `rehearsal`, `tokenizer`, `trainer_type`, `config`, and `datasets`: the
            paths of the `train`, the `trajectories` and the `eval` files, of those that there are.

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
        files = _files(question["datasets"])
        place = ["config", files[0].field]
        rendering = fitted(files, rendering, config)
        counts = Counts()
        for file in files:
            place = ["config", file.field]
            counts.add(prepare_file(file, rendering, config, lambda _: None))
        if path := question["datasets"].get("eval"):
            place = ["config", "eval_dataset_ref"]
            of_eval = prepare_file(RowFile(Path(path)), rendering, config, lambda _: None)
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


def _files(datasets: dict[str, Any]) -> list[RowFile]:
    paths = [Path(path) for path in datasets.get("trajectories") or ()]
    several = len(paths) + bool(datasets.get("train")) > 1
    files = [
        RowFile(path, f"trajectory dataset {n}" if several else "", "trajectory_dataset_refs")
        for n, path in enumerate(paths, 1)
    ]
    if train := datasets.get("train"):
        files.insert(0, RowFile(Path(train), "training dataset" if several else ""))
    return files


def _refusal(loc: list[str], error: str) -> dict[str, Any]:
    return {"ok": False, "loc": loc, "error": error}
