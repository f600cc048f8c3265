"""How jobs and datasets are shown to people."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from dreadnode.cli.output import Column, show

if TYPE_CHECKING:
    from dreadnode.training.checkpoints import OfWeights
    from dreadnode.training.jobs import Preflight, Rows, TrainingJob
    from dreadnode.wire import Dataset


def when(moment: datetime | None) -> str:
    """Return MOMENT in this machine's time, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def model(job: TrainingJob) -> str:
    """Return what a job trains; a rehearsal is never shown as the real thing."""
    if not job.rehearsal:
        return job.model
    return f"{job.model} (rehearsal on {job.trained_model or 'a stand-in'})"


def status(job: TrainingJob) -> str:
    """Return a job's state, and what it is doing if it is doing something."""
    if job.has_ended or not job.phase or job.phase == job.status:
        return job.status
    return f"{job.status} ({job.phase})"


def steps(job: TrainingJob) -> str:
    """Return how many optimizer steps are done, of how many."""
    if job.progress is None:
        return ""
    return f"{job.progress.step}/{job.progress.steps or '?'}"


def loss(job: TrainingJob) -> str:
    """Return the newest loss."""
    if job.progress is None or job.progress.loss is None:
        return ""
    return f"{job.progress.loss:.4f}"


def figures(job: TrainingJob) -> list[str]:
    """Return what the newest step and the newest evaluation came to, each in two words."""
    progress = job.progress
    if progress is None:
        return []
    named = {"loss": progress.loss, "reward": progress.reward}
    judged = {"eval loss": progress.eval_loss, "eval reward": progress.eval_reward}
    return [f"{name} {value:.4f}" for name, value in (named | judged).items() if value is not None]


def data(preflight: Preflight | None) -> str:
    """Return what the check of the data found, dropped rows first."""
    if preflight is None:
        return ""
    parts = [f"{preflight.usable:,} of {preflight.rows:,} rows", *_findings(preflight)]
    if preflight.tokens is not None:
        parts.append(f"{preflight.tokens:,} tokens")
    if (evaluation := preflight.evaluation) is not None:
        found = _findings(evaluation)
        if found:
            counted = f"evaluation data: {evaluation.usable:,} of {evaluation.rows:,} rows"
            parts += [counted, *found]
    return ", ".join(parts)


def _findings(rows: Rows) -> list[str]:
    """Return what is lost or doubtful of ROWS."""
    parts = []
    for reason, count in rows.dropped.items():
        named = rows.first_dropped.get(reason, [])
        more = " …" if len(named) < count else ""
        numbers = f" (row {', '.join(map(str, named))}{more})" if named else ""
        parts.append(f"{count:,} dropped: {reason}{numbers}")
    parts += [f"not read: {name} in {count:,} rows" for name, count in rows.unread.items()]
    parts += [f"{note} in {count:,} rows" for note, count in rows.notes.items()]
    if rows.truncated:
        parts.append(f"{rows.truncated:,} cut at the end to fit")
    return parts


def dataset(job: TrainingJob) -> str:
    """Return the name, version and split of what a job trains on."""
    config = job.config
    named = [
        (config.get("dataset_ref"), config.get("split")),
        (config.get("prompt_dataset_ref"), config.get("prompt_split")),
        *((ref, None) for ref in config.get("trajectory_dataset_refs") or []),
    ]
    return ", ".join(
        f"{ref['name']}@{ref['version']}" + (f" ({split})" if split else "")
        for ref, split in named
        if ref and {"name", "version"} <= {*ref}
    )


def eval_dataset(job: TrainingJob) -> str:
    """Return the name, version and split of what a job is evaluated on."""
    ref, split = job.config.get("eval_dataset_ref"), job.config.get("eval_split")
    if not ref or not {"name", "version"} <= {*ref}:
        return ""
    return f"{ref['name']}@{ref['version']}" + (f" ({split})" if split else "")


def splits(dataset: Dataset) -> str:
    """Return the splits of a dataset, with the rows of each where there are several."""
    if len(dataset.splits) == 1:
        return dataset.splits[0].name
    return ", ".join(
        f"{split.name} {split.rows:,}" + (f" ({split.format})" if dataset.format == "mixed" else "")
        for split in dataset.splits
    )


def reward(job: TrainingJob) -> str:
    """Return the reward recipe, and the rewards of the newest step."""
    recipe = job.config.get("reward_recipe")
    if not recipe:
        return ""
    earned = job.metrics.get("train/reward")
    newest = earned[-1] if isinstance(earned, list) and earned else None
    return recipe["name"] if newest is None else f"{newest:.4f} by {recipe['name']}"


def begins(job: TrainingJob) -> str:
    """Return where a retry starts: people pay for the steps that it repeats."""
    if job.start_step is None:
        return ""
    if job.start_step == 0:
        return "starts over from step 0"
    return f"goes on from the checkpoint of step {job.start_step:,}"


def whose(weights: OfWeights) -> str:
    """Say whose weights these are; a rehearsal's are never taken for the model's."""
    step = "" if weights.step is None else f" after step {weights.step}"
    name = weights.checkpoint.rpartition("/")[2]
    if weights.rehearsal:
        stand_in = f"rehearsal: this is the stand-in {weights.trained_model}{step} ({name})"
        return show(f"{stand_in}, and not {weights.model}")
    return show(f"{weights.model}{step} ({name})")


def capability(job: TrainingJob) -> str:
    """Return the capability whose prompt a job is trained with, if it has one."""
    found = job.capability
    return "" if found is None or found.name == "none" else f"{found.name}@{found.version}"


def settings(job: TrainingJob) -> str:
    """Return the job's numbers, defaults included; its prompt is too long for one line."""
    numbers = {
        name: value
        for name, value in job.config.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        if name not in ("system_prompt", "split", "prompt_split", "eval_split")
    }
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in numbers.items()
    )


JOBS: tuple[Column, ...] = (
    ("id", lambda job: job.id),
    ("status", status),
    ("model", model),
    ("steps", steps),
    ("loss", loss),
    ("created", lambda job: when(job.created_at)),
    ("name", lambda job: job.name),
)

JOB: tuple[Column, ...] = (
    ("id", lambda job: job.id),
    ("name", lambda job: job.name),
    ("status", status),
    ("reason", lambda job: job.phase_reason),
    ("error", lambda job: job.error),
    ("code", lambda job: job.error_code),
    ("model", model),
    ("dataset", dataset),
    ("eval data", eval_dataset),
    ("capability", capability),
    ("data", lambda job: data(job.preflight)),
    ("settings", settings),
    ("steps", steps),
    ("loss", loss),
    ("reward", reward),
    ("attempt", lambda job: job.attempt or None),
    ("retry of", lambda job: job.retry_of),
    ("begins", begins),
    ("tags", lambda job: ", ".join(job.tags)),
    ("created", lambda job: when(job.created_at)),
    ("started", lambda job: when(job.started_at)),
    ("ended", lambda job: when(job.completed_at)),
)

DATASETS: tuple[Column, ...] = (
    ("dataset", lambda dataset: dataset.ref),
    ("format", lambda dataset: dataset.format),
    ("splits", splits),
    ("rows", lambda dataset: dataset.rows),
    ("bytes", lambda dataset: dataset.bytes),
    ("created", lambda dataset: when(dataset.created_at)),
)

DATASET: tuple[Column, ...] = (
    *DATASETS[:-1],
    ("sha256", lambda dataset: dataset.sha256),
    DATASETS[-1],
)
