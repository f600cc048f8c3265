"""The rows of an evaluation, rendered for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.load_rendering import ChatFormat
from dreadnode_runtime.data.prepare import fitting, prepare
from dreadnode_runtime.data.prompts import Prompt, prepare_prompts
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.evaluation.config import EvalConfig
from dreadnode_runtime.rewards.recipes import Recipe
from dreadnode_runtime.rl.environments import Environment
from dreadnode_runtime.rl.job import prompt_settings


@dataclass(frozen=True, slots=True)
class RenderedRows:
    """The rows of the dataset in one chat format, by their numbers.

    Attributes:
        examples: The sequences whose loss is computed.
        prompts: The prompts whose completions get a reward.
        counts: What became of the rows, of those for the loss if there are any.
    """

    rendering: Rendering
    examples: Mapping[int, Sequence[Example]]
    prompts: Mapping[int, Prompt]
    counts: Counts


@dataclass(frozen=True, slots=True)
class EvalRows:
    """The rows that are evaluated.

    Attributes:
        formats: The rows in each chat format.
        numbers: The rows of which every model gets a loss or a reward, in the file's order.
    """

    formats: Mapping[ChatFormat, RenderedRows]
    numbers: Sequence[int]


def read_rows(
    path: Path,
    formats: Sequence[ChatFormat],
    config: EvalConfig,
    scoring: tuple[Recipe, Environment | None] | None,
) -> EvalRows:
    """Return the rows at PATH that all models can take, rendered in each of FORMATS.

    A row counts only if it can be used in every format, so that all models get the same rows.

    Raises:
        JobFailed: No row is usable, or one is not and `strict` forbids it.
    """
    rendered = {each: _rendered(path, each, config, scoring) for each in dict.fromkeys(formats)}
    with_loss = set.intersection(*(set(each.examples) for each in rendered.values()))
    with_reward = set.intersection(*(set(each.prompts) for each in rendered.values()))
    numbers = sorted(with_loss | with_reward)[: config.limit]
    if not numbers:
        raise JobFailed("No row can be used with all of the models", code="data")
    kept = set(numbers)
    return EvalRows(
        {
            key: RenderedRows(
                each.rendering,
                {row: found for row, found in each.examples.items() if row in kept & with_loss},
                {row: found for row, found in each.prompts.items() if row in kept & with_reward},
                each.counts,
            )
            for key, each in rendered.items()
        },
        numbers,
    )


def _rendered(
    path: Path,
    written: ChatFormat,
    config: EvalConfig,
    scoring: tuple[Recipe, Environment | None] | None,
) -> RenderedRows:
    rendering = written.rendering()
    examples: dict[int, Sequence[Example]] = {}
    prompts: dict[int, Prompt] = {}
    counts: Counts | None = None
    if config.train_on is not None:
        if written.renderer is None:
            rendering = fitting(
                [path], rendering, train_on=config.train_on, system_prompt=config.system_prompt
            )
        try:
            counts = prepare(
                path,
                rendering,
                max_length=config.max_sequence_length,
                train_on=config.train_on,
                system_prompt=config.system_prompt,
                strict=config.strict,
                keep=lambda found: examples.update({found[0].row: found}),
            )
        except JobFailed:
            # Rows without an answer have no loss, and may still get rewards.
            if scoring is None or config.strict:
                raise
    if scoring is not None:
        if config.max_tokens is None:
            raise ValueError("the API resolves `max_tokens` of an evaluation with a reward")
        settings = prompt_settings(config, config.max_tokens, rendering, *scoring)
        of_prompts = prepare_prompts(
            path, settings, lambda found: prompts.update({found.row: found})
        )
        counts = counts or of_prompts
    if counts is None:
        raise ValueError("an evaluation measures the loss, rewards, or both")
    return RenderedRows(rendering, examples, prompts, counts)
