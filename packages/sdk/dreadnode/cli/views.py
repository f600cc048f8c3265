"""How jobs and datasets are shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from dreadnode.cli import money
from dreadnode.cli.money import dollars as dollars
from dreadnode.cli.output import Column, elapsed, seconds_since, show
from dreadnode.cli.output import count as counted
from dreadnode.lazy_types import checkpoints, jobs, wire

_SHORTEST_ID = 8


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Return a prefix of each id that is unique among IDS."""
    length = _SHORTEST_ID
    while len({each[:length] for each in ids}) < len(set(ids)):
        length += 1
    return {each: each[:length].rstrip("-") for each in ids}


def model(job: jobs.TrainingJob) -> str:
    """Return the model of a job; a rehearsal is always marked as one."""
    if not job.rehearsal:
        return job.model
    return f"{job.model} (rehearsal on {job.trained_model or 'a stand-in'})"


def short_model(job: jobs.TrainingJob) -> str:
    """Return the model of a job without its organization."""
    name = job.model.rpartition("/")[2]
    return f"rehearsal: {name}" if job.rehearsal else name


def status(job: jobs.TrainingJob) -> str:
    """Return the status of a job, with its phase if it has one."""
    if job.has_ended or not job.phase or job.phase == job.status:
        return job.status
    return f"{job.status} ({job.phase})"


def steps(job: jobs.TrainingJob) -> str:
    """Return the number of optimizer steps done and planned."""
    if job.progress is None:
        return ""
    return f"{job.progress.step}/{job.progress.steps or '?'}"


def short_cost(job: jobs.TrainingJob) -> str:
    """Return what a job has cost so far."""
    if not any(job.cost.tokens.values()):
        return ""
    if not job.cost.paid:
        return "free"
    return "?" if job.cost.usd is None else dollars(job.cost.usd)


def cost(job: jobs.TrainingJob) -> str:
    """Return what a job has cost so far, or would cost at the list prices, and its limit."""
    found = job.cost
    limit = "" if found.limit_usd is None else f", limit {dollars(found.limit_usd)}"
    if not any(found.tokens.values()):
        return limit.removeprefix(", ")
    counted = ", ".join(f"{count:,} {kind}" for kind, count in found.tokens.items() if count)
    tokens = f"{counted} tokens"
    if found.list_usd is None:
        return f"unknown: {found.reason} ({tokens}){limit}"
    if not found.paid:
        return f"free; {dollars(found.list_usd)} at Tinker's prices ({tokens})"
    earlier = f" after {dollars(found.earlier_usd)} before" if found.earlier_usd else ""
    return f"{dollars(found.list_usd)} ({tokens}){earlier}{limit}"


def rehearsal(job: jobs.TrainingJob) -> list[str]:
    """Return what a rehearsal has shown, and what the whole job would take and cost."""
    report = job.rehearsal_report
    if report is None:
        return []
    seen = f"{report.metric} {report.movement} from {report.first:.4g} to {report.last:.4g}"
    pace = f"{report.tokens_per_step:,.0f} tokens"
    if report.seconds_per_step is not None:
        pace += f" and {report.seconds_per_step:.3g} s"
    lines = [f"{seen} over {counted(report.steps, 'step')}; {pace} per step with the stand-in"]
    whole = [] if report.whole_steps is None else [counted(report.whole_steps, "step")]
    if report.whole_seconds is not None:
        whole.append(f"{duration(report.whole_seconds)} at this speed")
    least, most = report.whole_usd_at_least, report.whole_usd_at_most
    if least is not None and most is not None:
        price = dollars(most) if least == most else f"{dollars(least)} to {dollars(most)}"
        whole.append(f"{price} on {job.model} (tokens counted by the stand-in's tokenizer)")
    return [*lines, *([f"the whole job: {', '.join(whole)}"] if whole else [])]


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{hours:.0f} h {minutes % 60:02.0f} min" if hours < 100 else f"{hours / 24:.0f} d"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def optional_dollars(usd: Decimal | None) -> str:
    """Return an amount, or an empty string."""
    return "" if usd is None else dollars(usd)


def evaluation(job: jobs.TrainingJob) -> str:
    """Return the newest evaluation loss or reward."""
    if job.progress is None:
        return ""
    reward = job.progress.eval_reward
    return _rounded(job.progress.eval_loss if reward is None else reward)


def learning_rate(job: jobs.TrainingJob) -> str:
    """Return the peak learning rate."""
    value = job.config.get("learning_rate")
    return f"{value:g}" if isinstance(value, (int, float)) else ""


def latest_metrics(job: jobs.TrainingJob) -> list[str]:
    """Return the metrics of the newest step and the newest evaluation, each with its name."""
    progress = job.progress
    if progress is None:
        return []
    metrics = {
        "loss": progress.loss,
        "reward": progress.reward,
        "eval loss": progress.eval_loss,
        "eval reward": progress.eval_reward,
    }
    return [f"{name} {value:.4f}" for name, value in metrics.items() if value is not None]


def best(job: jobs.TrainingJob) -> str:
    """Return the best evaluation, if it came before the last one."""
    found = job.better_evaluation
    return "" if found is None else f"step {found.step}, eval {found.metric} {found.value:.4g}"


def take_best(job: jobs.TrainingJob) -> str:
    """Return the best evaluation, and the commands that use its weights."""
    return (
        f"best: {best(job)}; `dn train download {job.id} --best` and "
        f"`dn train chat {job.id} --checkpoint best` use those weights"
    )


def data(preflight: jobs.Preflight | None) -> str:
    """Return what the check of the data found, without the dropped rows."""
    if preflight is None:
        return ""
    parts = [f"{preflight.usable:,} of {preflight.rows:,} rows", *_findings(preflight)]
    if preflight.tokens is not None:
        parts.append(f"{preflight.tokens:,} tokens")
    if (evaluation := preflight.evaluation) is not None:
        found = [f"dropped {line}" for line in dropped(evaluation)] + _findings(evaluation)
        if found:
            counted = f"evaluation data: {evaluation.usable:,} of {evaluation.rows:,} rows"
            parts += [counted, *found]
    return ", ".join(parts)


def _findings(rows: jobs.Rows) -> list[str]:
    """Return what is doubtful about ROWS, without the dropped ones."""
    parts = [f"{rows.truncated:,} truncated"] if rows.truncated else []
    parts += [f"not read: {name} in {count:,} rows" for name, count in rows.unread.items()]
    parts += [f"{note} in {count:,} rows" for note, count in rows.notes.items()]
    return parts


def dropped(rows: jobs.Rows | None) -> list[str]:
    """Return a line for each reason why ROWS are dropped, with the first of them."""
    if rows is None:
        return []
    lines = []
    for reason, count in rows.dropped.items():
        first = rows.first_dropped.get(reason, [])
        more = " …" if len(first) < count else ""
        numbers = f" (row {', '.join(map(str, first))}{more})" if first else ""
        lines.append(f"{count:,} {'row' if count == 1 else 'rows'}: {reason}{numbers}")
    return lines


def warnings(preflight: jobs.Preflight | None) -> list[str]:
    """Return what is probably not meant about a job."""
    return [] if preflight is None else [each.message for each in preflight.warnings]


def estimate(job: jobs.TrainingJob) -> str:
    """Return the price of a job that was estimated before it started."""
    if job.preflight is None or job.preflight.price is None:
        return ""
    shown = money.total(job.preflight.price)
    return shown if job.cost.paid else f"free here; hosted Tinker: {shown}"


def dataset(job: jobs.TrainingJob) -> str:
    """Return the name, the version and the split of a job's data."""
    config = job.config
    refs = [
        (config.get("dataset_ref"), config.get("split")),
        (config.get("prompt_dataset_ref"), config.get("prompt_split")),
        *((ref, None) for ref in config.get("trajectory_dataset_refs") or []),
    ]
    return ", ".join(text for ref, split in refs if (text := _ref(ref, split)))


def eval_dataset(job: jobs.TrainingJob) -> str:
    """Return the name, the version and the split of a job's evaluation data."""
    return _ref(job.config.get("eval_dataset_ref"), job.config.get("eval_split"))


def _ref(ref: object, split: object) -> str:
    if not isinstance(ref, dict) or not {"name", "version"} <= {*ref}:
        return ""
    return f"{ref['name']}@{ref['version']}" + (f" ({split})" if split else "")


def splits(dataset: wire.Dataset) -> str:
    """Return the splits of a dataset, with the rows of each if there are several."""
    if len(dataset.splits) == 1:
        return dataset.splits[0].name
    return ", ".join(
        f"{split.name} {split.rows:,}" + (f" ({split.format})" if dataset.format == "mixed" else "")
        for split in dataset.splits
    )


def reward(job: jobs.TrainingJob) -> str:
    """Return the reward recipe, and the reward of the newest step."""
    recipe = job.config.get("reward_recipe")
    if not recipe:
        return ""
    rewards = job.metrics.get("train/reward")
    newest = rewards[-1] if isinstance(rewards, list) and rewards else None
    return recipe["name"] if newest is None else f"{newest:.4f} by {recipe['name']}"


def start(job: jobs.TrainingJob) -> str:
    """Return the step at which a retry starts."""
    if job.start_step is None:
        return ""
    if job.start_step == 0:
        return "from step 0"
    return f"from the checkpoint of step {job.start_step:,}"


def weights(of: checkpoints.OfWeights) -> str:
    """Describe the weights that were used; a rehearsal's are never shown as the model's."""
    step = "" if of.step is None else f" after step {of.step}"
    name = of.checkpoint.rpartition("/")[2]
    if of.rehearsal:
        stand_in = f"rehearsal: this is the stand-in {of.trained_model}{step} ({name})"
        return show(f"{stand_in}, not {of.model}")
    return show(f"{of.model}{step} ({name})")


def capability(job: jobs.TrainingJob) -> str:
    """Return the capability whose prompt a job uses, if it has one."""
    found = job.capability
    return "" if found is None or found.name == "none" else f"{found.name}@{found.version}"


def settings(job: jobs.TrainingJob) -> str:
    """Return the job's numbers and words, defaults included, without its prompt and splits."""
    shown = {
        name: value
        for name, value in job.config.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        if name not in ("system_prompt", "split", "prompt_split", "eval_split")
    }
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def job_rows(jobs: Sequence[jobs.TrainingJob]) -> tuple[Column, ...]:
    """Return the columns of a list of JOBS."""
    ids = short_ids([job.id for job in jobs])
    return (
        ("id", lambda job: ids[job.id]),
        ("status", lambda job: job.status),
        ("model", short_model),
        ("steps", steps),
        ("loss", lambda job: job.progress and _rounded(job.progress.loss)),
        ("eval", evaluation),
        ("cost", short_cost),
        ("lr", learning_rate),
        ("warnings", lambda job: len(warnings(job.preflight)) or None),
        ("user", lambda job: job.created_by_user and job.created_by_user.username),
        ("age", lambda job: elapsed(seconds_since(job.created_at))),
        ("name", lambda job: job.name),
    )


SHRINK = ("model", "user", "name")
"""The columns of a list of jobs that may be cut."""

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
    ("dropped", lambda job: dropped(job.preflight)),
    ("warnings", lambda job: warnings(job.preflight)),
    ("estimate", estimate),
    ("settings", settings),
    ("steps", steps),
    ("loss", lambda job: job.progress and _rounded(job.progress.loss)),
    ("reward", reward),
    ("evaluation", evaluation),
    ("rehearsal", rehearsal),
    ("rehearsed by", lambda job: job.rehearsal_id),
    ("cost", cost),
    ("stopped by", lambda job: job.stopped_by),
    ("best", best),
    ("attempt", lambda job: job.attempt or None),
    ("retry of", lambda job: job.retry_of),
    ("starts", start),
    ("tags", lambda job: ", ".join(job.tags)),
    ("user", lambda job: job.created_by_user and job.created_by_user.username),
    ("created", lambda job: job.created_at),
    ("started", lambda job: job.started_at),
    ("ended", lambda job: job.completed_at),
)

DATASETS: tuple[Column, ...] = (
    ("dataset", lambda dataset: dataset.ref),
    ("format", lambda dataset: dataset.format),
    ("splits", splits),
    ("rows", lambda dataset: dataset.rows),
    ("bytes", lambda dataset: dataset.bytes),
    ("created", lambda dataset: dataset.created_at),
)

DATASET: tuple[Column, ...] = (
    *DATASETS[:-1],
    ("sha256", lambda dataset: dataset.sha256),
    DATASETS[-1],
)
