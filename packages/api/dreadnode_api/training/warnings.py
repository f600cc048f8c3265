"""Warnings about a job that can run, and probably not as it was meant.

An error refuses a job. A warning is kept with it, and says its reason and what to do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

UNUSUAL = 10.0
"""By which factor a learning rate differs from the usual one of the model before a warning."""
HANDFUL = 100
"""Fewer rows than this are learned by heart in a few epochs."""
MANY_EPOCHS = 5

JobWarning = dict[str, str]
Report = Mapping[str, Any]
Rules = dict[str, Callable[[Mapping[str, Any], Report], Iterator[str]]]
"""The rules of a kind of job by the codes of their warnings."""


def warnings_of(trainer_type: str, config: Mapping[str, Any], report: Report) -> list[JobWarning]:
    """Return the warnings about a job with a resolved CONFIG and the REPORT of its check."""
    rules = _RULES[trainer_type]
    return [
        {"code": code, "message": message}
        for code, rule in rules.items()
        for message in rule(config, report)
    ]


def _learning_rate(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    usual, rate = report.get("usual_learning_rate"), config["learning_rate"]
    if usual is None:
        return
    if rate > usual * UNUSUAL:
        word, consequence = "above", "the loss may diverge"
    elif rate < usual / UNUSUAL and "reward_recipe" not in config:
        word, consequence = "below", "the model may hardly learn"
    else:
        return
    yield (
        f"`learning_rate` is {rate:g}, far {word} the {usual:.1g} that is usual for LoRA of this "
        f"model, which holds for rank {config['lora_rank']} too; {consequence}"
    )


def _evaluation(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    if config.get("eval_dataset_ref") is None:
        yield (
            "There is no evaluation data, so overfitting stays unseen; add some with "
            "`eval_dataset_ref` (`--eval-dataset`)"
        )


def _truncated(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    if count := report["truncated"]:
        yield (
            f"{count:,} of {report['usable']:,} rows are longer than `max_sequence_length`, "
            f"{config['max_sequence_length']:,} tokens, and are cut at their end"
        )


def _duplicates(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    found = report.get("duplicates") or {"count": 0}
    if found["count"]:
        pairs = ", ".join(
            f"{_place(each)} repeats {_place(each['of'])}" for each in found["rows"][:2]
        )
        yield f"{found['count']:,} of {report['usable']:,} rows repeat another one: {pairs}"


def _shared(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    shared = (report.get("evaluation") or {}).get("shared") or {"count": 0}
    if shared["count"]:
        yield (
            f"{shared['count']:,} rows of the evaluation data are training data as well, so that "
            f"the evaluation looks better than it is: {_rows(shared['rows'], shared['count'])}"
        )


def _few(what: str, advice: str, config: Mapping[str, Any], report: Report) -> Iterator[str]:
    plan = _plan(report)
    if plan is not None and plan["rows_per_epoch"] < plan["rows_per_step"]:
        yield (
            f"A step takes {plan['rows_per_step']:,} {what}, and there are only "
            f"{plan['rows_per_epoch']:,}{advice}"
        )


def _many_epochs(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    plan = _plan(report)
    if plan is None or plan["rows_per_epoch"] >= HANDFUL:
        return
    rows = plan["rows_per_epoch"]
    epochs = plan["steps"] / -(-rows // plan["rows_per_step"])
    if epochs > MANY_EPOCHS:
        yield (
            f"The job goes through {rows:,} rows {epochs:,.0f} times and may learn them by heart; "
            "use fewer epochs or more rows"
        )


def _reward(config: Mapping[str, Any], report: Report) -> Iterator[str]:
    samples = report.get("reward_samples") or []
    if failed := [each for each in samples if each["error"] is not None]:
        first = failed[0]
        yield (
            f"The reward failed on {len(failed)} of {len(samples)} completions that it was tried "
            f"on, first on the {first['kind']} one of row {first['row']}: {first['error']}"
        )
    by_row: dict[int, dict[str, float]] = {}
    for each in samples:
        if each["reward"] is not None:
            by_row.setdefault(each["row"], {})[each["kind"]] = each["reward"]
    for row, rewards in by_row.items():
        if "right" in rewards and "wrong" in rewards and rewards["wrong"] >= rewards["right"]:
            yield (
                f"A wrong completion of row {row} gets a reward of {rewards['wrong']:g} and the "
                f"right one {rewards['right']:g}; check the reward"
            )
            return


def _plan(report: Report) -> Mapping[str, Any] | None:
    """Return the plan of a job; None if an earlier runtime has reported none, or another one."""
    plan = report.get("plan")
    return plan if plan is not None and "rows_per_epoch" in plan else None


def _place(place: Mapping[str, Any]) -> str:
    of = f" of the {place['dataset']}" if "dataset" in place else ""
    return f"row {place['row']}{of}"


def _rows(numbers: Sequence[int], count: int) -> str:
    more = " …" if count > len(numbers) else ""
    return f"row{'s' if count > 1 else ''} {', '.join(map(str, numbers))}{more}"


_few_rows = partial(_few, "rows", "; lower `batch_size`")
_few_prompts = partial(_few, "prompts", ", so that steps repeat them; lower `num_rollouts`")
_TRAINING: Rules = {
    "learning_rate": _learning_rate,
    "no_evaluation_data": _evaluation,
    "duplicates": _duplicates,
    "shared_with_evaluation": _shared,
}
_RULES: dict[str, Rules] = {
    "sft": {
        **_TRAINING,
        "truncated": _truncated,
        "few_rows": _few_rows,
        "many_epochs": _many_epochs,
    },
    "rl": {**_TRAINING, "few_prompts": _few_prompts, "reward": _reward},
    "eval": {"truncated": _truncated, "duplicates": _duplicates, "reward": _reward},
}
