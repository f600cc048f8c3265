"""The result of an evaluation: each model's figures, and its comparison with the first model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from dreadnode_runtime.evaluation import statistics
from dreadnode_runtime.evaluation.config import EvaluatedModel
from dreadnode_runtime.evaluation.results import RowResult
from dreadnode_runtime.rl.rollouts import REWARD_TOLERANCE

Metric = Literal["loss", "reward"]
LOSS_TIE = 1e-4
"""Losses per token that differ by at most this count as equal: engines round differently."""
CHANGED = 10
"""How many rows that changed most are named."""
SHOWN_CHARACTERS = 500
"""How much of a completion the result shows; the file of the rows has all of it."""


def model_figures(results: Sequence[RowResult]) -> dict[str, Any]:
    """Return loss, reward and counts of one model's RESULTS; a figure without rows is None."""
    with_loss = [each for each in results if each.loss is not None]
    rewards = [each.reward for each in results if each.reward is not None]
    figures: dict[str, Any] = {"loss": None, "reward": None, "rows": len(results)}
    if with_loss:
        found = statistics.ratio([each.loss or 0.0 for each in with_loss], _tokens(with_loss))
        figures["loss"] = asdict(found)
    if rewards:
        figures["reward"] = asdict(statistics.mean(rewards))
    completions = [text for each in results for text in each.completions]
    return figures | {
        "loss_tokens": sum(_tokens(with_loss)),
        "completions": len(completions),
        "truncated": sum(each.truncated for each in results),
        "unfinished": sum(text is None for text in completions),
        "reward_errors": sum(each.errors for each in results),
        "sampled_tokens": sum(each.sampled_tokens for each in results),
    }


def comparisons(
    models: Sequence[EvaluatedModel],
    results: Mapping[int, Sequence[RowResult]],
    questions: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Return the comparison of each model with the first, by each metric that both have.

    Args:
        models: The models; the first one is the baseline.
        results: The results of each model, by its number.
        questions: What the rows ask, for those that changed most.
    """
    compared = []
    for model in range(1, len(models)):
        for metric in ("loss", "reward"):
            pairs = _pairs(metric, results[0], results[model])
            if pairs:
                compared.append(_comparison(metric, model, pairs, questions))
    return compared


def _pairs(
    metric: str, baseline: Sequence[RowResult], other: Sequence[RowResult]
) -> list[tuple[RowResult, RowResult]]:
    """Return the results of the rows that both models have METRIC of."""
    by_row = {each.row: each for each in baseline if _value(metric, each) is not None}
    return [
        (by_row[each.row], each)
        for each in other
        if each.row in by_row and _value(metric, each) is not None
    ]


def _comparison(
    metric: str,
    model: int,
    pairs: Sequence[tuple[RowResult, RowResult]],
    questions: Mapping[int, str],
) -> dict[str, Any]:
    before = [_value(metric, one) or 0.0 for one, _ in pairs]
    after = [_value(metric, other) or 0.0 for _, other in pairs]
    if metric == "loss":
        bases, others = [one for one, _ in pairs], [other for _, other in pairs]
        difference = statistics.paired_ratio(_totals(others), _totals(bases))
    else:
        difference = statistics.paired_mean(after, before)
    gains = [
        _gain(metric, *each)
        for each in zip(before, after, strict=True)  # above 0 is better
    ]
    largest = sorted(range(len(pairs)), key=lambda at: (-abs(after[at] - before[at]), at))
    return {
        "model": model,
        "baseline": 0,
        "metric": metric,
        "difference": asdict(difference),
        "wins": sum(gain > 0 for gain in gains),
        "ties": sum(gain == 0 for gain in gains),
        "losses": sum(gain < 0 for gain in gains),
        "changed": [
            {
                "row": pairs[at][0].row,
                "baseline": before[at],
                "value": after[at],
                "question": _shortened(questions.get(pairs[at][0].row)),
                "baseline_completion": _completion(pairs[at][0]),
                "completion": _completion(pairs[at][1]),
            }
            for at in largest[:CHANGED]
            if gains[at]
        ],
    }


def _gain(metric: str, before: float, after: float) -> float:
    """Return by how much AFTER is better; 0 for a tie."""
    change = before - after if metric == "loss" else after - before
    largest = max(abs(before), abs(after))
    tolerance = LOSS_TIE if metric == "loss" else REWARD_TOLERANCE * largest
    return 0.0 if abs(change) <= tolerance else change


def _value(metric: str, result: RowResult) -> float | None:
    return result.mean_loss if metric == "loss" else result.reward


def _totals(results: Sequence[RowResult]) -> tuple[list[float], list[float]]:
    return [each.loss or 0.0 for each in results], [float(n) for n in _tokens(results)]


def _tokens(results: Sequence[RowResult]) -> list[int]:
    return [each.tokens for each in results]


def _completion(result: RowResult) -> str | None:
    return _shortened(result.completions[0]) if result.completions else None


def _shortened(text: str | None) -> str | None:
    if text is None or len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[: SHOWN_CHARACTERS - 1]}…"
