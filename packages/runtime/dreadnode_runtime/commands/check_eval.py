"""The check of an evaluation before it exists: render its rows for every model, try the reward."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.refused import Refused
from dreadnode_runtime.commands.try_reward import try_reward
from dreadnode_runtime.data.counts import as_report
from dreadnode_runtime.data.load_rendering import ChatFormat
from dreadnode_runtime.data.overview import Overview
from dreadnode_runtime.data.shown import SAMPLED, Density, RowShown, prompt_shown
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.evaluation.bounds import token_bounds
from dreadnode_runtime.evaluation.config import EvalConfig
from dreadnode_runtime.evaluation.job import scoring
from dreadnode_runtime.evaluation.rows import EvalRows, RenderedRows, read_rows
from dreadnode_runtime.jobs.config import read_config


def check_eval(question: dict[str, Any]) -> dict[str, Any]:
    """Return the report about the rows of the evaluation that QUESTION describes.

    Raises:
        Refused: It cannot run.
    """
    return asyncio.run(_check(question))


async def _check(question: dict[str, Any]) -> dict[str, Any]:
    place = ["config"]
    samples: list[dict[str, Any]] = []
    confined: list[str] = []
    try:
        config = read_config(EvalConfig, question["config"])
        formats = [ChatFormat.model_validate(each) for each in question["formats"]]
        place = ["config", "reward_recipe"]
        async with scoring(config) as scored:
            place = ["config", "dataset_ref"]
            rows = read_rows(Path(question["datasets"]["eval"]), formats, config, scored)
            first = rows.formats[formats[0]]
            place = ["config", "reward_recipe"]
            if scored is not None:
                confined = await scored[0].confinement()
                samples = await try_reward(scored[0], list(first.prompts.values()))
    except JobFailed as refusal:
        named = {"environment": ["config", "environment"], "model": ["config", "models"]}
        raise Refused(named.get(refusal.code, place), str(refusal)) from refusal
    return {
        "ok": True,
        **as_report(first.counts),
        "usable": len(rows.numbers),
        **_overview(first, rows).report(),
        "renderer": first.rendering.name,
        "format_notes": list(
            dict.fromkeys(note for each in rows.formats.values() for note in each.rendering.notes)
        ),
        "confined": confined,
        "reward_samples": samples,
        "plan": _plan(config, formats, rows),
        "characters_per_token": _density(first),
        "shown": _shown(first, question.get("show")),
    }


def _overview(first: RenderedRows, rows: EvalRows) -> Overview:
    overview = Overview()
    for row in rows.numbers:
        if row in first.examples:
            overview.add(first.examples[row])
        else:
            overview.add_prompt(row, first.prompts[row].tokens)
    return overview


def _plan(config: EvalConfig, formats: Sequence[ChatFormat], rows: EvalRows) -> dict[str, Any]:
    """Return the results of the evaluation, and the fewest and the most tokens, by kind."""
    least, most = token_bounds(config, formats, rows)
    return {
        "steps": len(formats) * len(rows.numbers),
        "rows_per_epoch": len(rows.numbers),
        "rows_per_step": 1,
        "at_least": least,
        "at_most": most,
    }


def _density(first: RenderedRows) -> float | None:
    density = Density(first.rendering)
    for examples in list(first.examples.values())[:SAMPLED]:
        density.offer(examples[0].tokens.tolist())
    for prompt in list(first.prompts.values())[:SAMPLED]:
        density.offer(list(prompt.tokens))
    return density.report()


def _shown(first: RenderedRows, row: int | None) -> Mapping[str, Any] | None:
    if first.examples:
        shown = RowShown(row)
        for examples in first.examples.values():
            shown.offer(examples)
        return shown.report(first.rendering)
    found = next((each for each in first.prompts.values() if row in (None, each.row)), None)
    return None if found is None else prompt_shown(found.row, found.tokens, first.rendering)
