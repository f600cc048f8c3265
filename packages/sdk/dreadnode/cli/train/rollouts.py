"""`dn train rollouts`."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import count, hint, say
from dreadnode.cli.train.jobs import Job

if TYPE_CHECKING:
    from dreadnode.training.rollouts import RolloutCompletion, RolloutGroup, Rollouts


def rollouts(
    job: Job,
    /,
    *,
    step: Annotated[
        int | None, Parameter(help="Step of the rollouts; the newest one if not set.")
    ] = None,
    sort: Annotated[
        Literal["reward", "advantage"] | None,
        Parameter(help="Show groups and completions with the highest values first."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Show rollouts of an RL job: prompts and completions with reward and advantage.

    A job keeps a sample: up to 100 steps, 8 groups of a step and 8 completions of a group.
    """
    with common.client() as client:
        found = client.get_training_job_rollouts(client.find_training_job(job), step=step)
    if sort is not None:
        found = _sorted(found, sort)
    if common.json:
        common.out.json(found.model_dump(mode="json"))
        return
    if found.step is None:
        say("no rollouts yet; they come with the first step")
        return
    common.out.text(f"step {found.step}: {_of(len(found.groups), found.groups_total, 'group')}")
    for number, group in enumerate(found.groups, 1):
        common.out.text("", *_group(number, group))
    others = [str(each) for each in found.steps if each != found.step]
    if others:
        shown = others if len(others) <= 8 else [*others[:4], "…", *others[-4:]]
        hint(f"`--step N` shows another step: {', '.join(shown)}")


def _sorted(found: Rollouts, by: str) -> Rollouts:
    """Return FOUND with the highest values BY reward or advantage first."""

    def value(completion: RolloutCompletion) -> float:
        return completion.reward if by == "reward" else completion.advantage

    groups = [
        group.model_copy(update={"completions": sorted(group.completions, key=value, reverse=True)})
        for group in found.groups
    ]
    groups.sort(key=lambda group: max(map(value, group.completions), default=0.0), reverse=True)
    return found.model_copy(update={"groups": groups})


def _group(number: int, group: RolloutGroup) -> Iterator[str]:
    """Yield the lines of a group: its prompt, and its completions."""
    place = f"row {group.row}" + (f" of {group.dataset}" if group.dataset else "")
    parts = [
        f"group {number}, {place}",
        _of(len(group.completions), group.completions_total, "completion"),
        f"mean reward {group.reward_mean:.4g}",
        f"sampled {count(group.staleness, 'step')} earlier" if group.staleness else "",
        "DEGENERATE: equal rewards" if group.degenerate else "",
    ]
    yield ", ".join(part for part in parts if part)
    yield "  prompt"
    yield indent(str(group.prompt), "    ")
    if group.expected is not None:
        yield "  expected"
        yield indent(str(group.expected), "    ")
    for completion in group.completions:
        yield from _completion(completion)


def _completion(completion: RolloutCompletion) -> Iterator[str]:
    parts = [
        f"completion {completion.number}: reward {completion.reward:.4g}",
        f"advantage {completion.advantage:+.4g}",
        count(completion.tokens, "token"),
        "TRUNCATED" if completion.truncated else "",
    ]
    yield f"  {', '.join(part for part in parts if part)}"
    if completion.error is not None:
        yield indent(f"the reward failed: {completion.error}", "    ")
    left_out = completion.turns_total - len(completion.turns)
    for at, turn in enumerate(completion.turns):
        if left_out and at == len(completion.turns) // 2:
            yield f"    … {count(left_out, 'turn')} left out …"
        if completion.turns_total > 1:
            yield f"    [{turn.role}]"
        yield indent(str(turn.content), "    ")


def _of(shown: int, total: int, thing: str) -> str:
    return count(total, thing) if shown == total else f"{shown} of {count(total, thing)}"
