"""The check of a supervised job before it exists: every row is rendered, and nothing is trained."""

from pathlib import Path
from typing import Any

from dreadnode_runtime.commands.refused import Refused
from dreadnode_runtime.data.counts import Counts, as_report
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.overview import Overview
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.data.shown import Density, RowShown
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig, check_trackers, check_warmup, read_config
from dreadnode_runtime.jobs.learning_rate import usual_learning_rate
from dreadnode_runtime.jobs.row_files import RowFile, checked_files
from dreadnode_runtime.sft.data import fitted, prepare_file
from dreadnode_runtime.sft.schedule import Schedule


def check_sft(question: dict[str, Any]) -> dict[str, Any]:
    """Return the report about the data of the job that QUESTION describes.

    Raises:
        Refused: It cannot be trained.
    """
    place = ["config"]
    of_eval: dict[str, Any] = {}
    evaluation: Overview | None = None
    shown = RowShown(question.get("show"))
    try:
        config = read_config(SftConfig, question["config"])
        place = ["config", "track"]
        check_trackers(config)
        place = ["model"]
        rendering = load_rendering(
            question["model"],
            rehearsal=question["rehearsal"],
            tokenizer=question["tokenizer"],
            chosen=config.tokenizer,
        )
        files = checked_files(question["datasets"], "dataset_ref", "training dataset")
        place = ["config", files[0].field]
        rendering = fitted(files, rendering, config)
        counts, training, density = Counts(), Overview(), Density(rendering)
        for file in files:
            place = ["config", file.field]
            counts.add(_read(file, rendering, config, training, shown, density))
        if path := question["datasets"].get("eval"):
            place = ["config", "eval_dataset_ref"]
            file, evaluation = RowFile(Path(path)), Overview()
            counted = _read(file, rendering, config, evaluation, RowShown(0), density)
            shared = {"shared": evaluation.shared_with(training)}
            of_eval = {"evaluation": {**as_report(counted), **evaluation.report(), **shared}}
        rows = len(training.input_tokens)
        place = ["config", "warmup_steps"]
        check_warmup(config, config.total_steps(rows))
    except JobFailed as refusal:
        if refusal.code == "tokenizer":
            place = ["config", "tokenizer"]
        raise Refused(place, str(refusal)) from refusal
    return {
        "ok": True,
        **as_report(counts),
        **training.report(),
        "trained_tokens": counts.trained_tokens,
        **of_eval,
        "renderer": rendering.name,
        "format_notes": rendering.notes,
        "usual_learning_rate": usual_learning_rate(question["model"]),
        "plan": _plan(config, training, evaluation),
        "characters_per_token": density.report(),
        "shown": shown.report(rendering),
    }


def _plan(config: SftConfig, training: Overview, evaluation: Overview | None) -> dict[str, Any]:
    """Return the steps of the job, and the fewest and the most tokens that it sends, by kind."""
    rows, evaluated = (
        training.input_tokens,
        0 if evaluation is None else sum(evaluation.input_tokens),
    )
    schedule = Schedule(config, len(rows), evaluates=evaluation is not None)
    least, most = schedule.fewest_tokens(rows, evaluated), schedule.tokens(rows, evaluated)
    return {
        "steps": schedule.steps,
        "rows_per_epoch": len(rows),
        "rows_per_step": config.rows_per_step(),
        "evaluations": schedule.evaluations,
        "evaluation_tokens": most.evaluation,
        # Forward-only passes are billed at the rate of training passes.
        "at_least": {"train": least.total},
        "at_most": {"train": most.total},
    }


def _read(
    file: RowFile,
    rendering: Rendering,
    config: SftConfig,
    overview: Overview,
    shown: RowShown,
    density: Density,
) -> Counts:
    def keep(examples: list[Example]) -> None:
        overview.add(examples)
        shown.offer(examples)
        density.offer(examples[0].tokens.tolist())

    overview.start(file.name)
    return prepare_file(file, rendering, config, keep)
