"""The figures of each RL step, and those that a job ends with.

With `q` the log-probability of a token under the weights that drew it and `p` that of the trainer
before its update, entropy is estimated over all tokens that were drawn, so that a step that teaches
nothing has one too, and KL and clipping over those that were learnt from:

| figure | formula |
| --- | --- |
| `train/kl_sampler_trainer` | mean of `exp(p - q) - 1 - (p - q)` (Schulman 2020, estimator k3) |
| `train/entropy` | mean of `-q` |
| `train/clip_fraction` | share of tokens whose ratio `exp(p - q)` PPO clips |
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreadnode_runtime.backend.policy import Floats, Sequenced
from dreadnode_runtime.rl.rollouts import Group, Rollout

Figures = dict[str, float | int | None]
RENAMED = {
    "train/num_rollouts": "train/num_rollouts_per_step",
    "train/reward_max": "train/reward_max_per_step",
    "train/reward_min": "train/reward_min_per_step",
}
"""Series that the end of a job tells under another name, their own being a figure of the whole."""


def rollout_figures(aged: Sequence[tuple[int, Group]]) -> Figures:
    """Return what is known of a step's groups, each with its age, when they have been judged."""
    groups = [group for _, group in aged]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.score.value for rollout in rollouts]
    lengths = [rollout.sampled for rollout in rollouts]
    ages = [age for age, _ in aged]
    return {
        "train/reward": statistics.fmean(rewards),
        "train/reward_max": max(rewards),
        "train/reward_min": min(rewards),
        "train/reward_std": statistics.pstdev(rewards),
        "train/reward_errors": sum(rollout.score.error is not None for rollout in rollouts),
        "train/num_rollouts": len(rollouts),
        "train/entropy": _entropy(rollouts),
        "train/degenerate_groups": sum(group.degenerate for group in groups),
        "train/completion_tokens_mean": statistics.fmean(lengths),
        "train/completion_tokens_max": max(lengths),
        "train/truncated_fraction": statistics.fmean(rollout.truncated for rollout in rollouts),
        "train/turns_mean": statistics.fmean(rollout.turns for rollout in rollouts),
        "train/staleness": statistics.fmean(ages),
        "train/staleness_max": max(ages),
        "train/prompt_tokens": sum(rollout.prefilled for rollout in rollouts),
        "train/sampled_tokens": sum(lengths),
    }


def _entropy(rollouts: Sequence[Rollout]) -> float | None:
    """Return the mean of `-q` over all tokens of ROLLOUTS; nothing if none was drawn."""
    q = [
        np.asarray(sequence.logprobs)[np.asarray(sequence.drawn, np.bool_)]
        for rollout in rollouts
        for sequence in rollout.sequences
    ]
    drawn = np.concatenate(q)
    return float(-drawn.mean()) if len(drawn) else None


def learning_figures(
    learnt: Sequence[tuple[Sequenced, Floats]], clip: tuple[float, float] | None
) -> Figures:
    """Return what training told of each sequence: its log-probabilities, of shape (T - 1,).

    Args:
        learnt: Sequences with what the trainer found.
        clip: Between which ratios PPO lets them count, if it is PPO.
    """
    names = ("train/kl_sampler_trainer", "train/clip_fraction")
    figures: Figures = dict.fromkeys(names)
    figures["train/trained_tokens"] = sum(len(sequence.tokens) - 1 for sequence, _ in learnt)
    if not learnt:
        return figures
    drawn = [sequence.drawn[1:] for sequence, _ in learnt]
    p = np.concatenate([found[mask] for (_, found), mask in zip(learnt, drawn, strict=True)])
    q = np.concatenate(
        [sequence.logprobs[1:][mask] for (sequence, _), mask in zip(learnt, drawn, strict=True)]
    )
    gap = p.astype(np.float64) - q
    with np.errstate(over="ignore"):
        ratio = np.exp(gap)
    kl = float(np.mean(ratio - 1 - gap))
    figures["train/kl_sampler_trainer"] = kl if np.isfinite(kl) else None
    if clip is not None:
        advantage = np.concatenate(
            [s.advantages[1:][mask] for (s, _), mask in zip(learnt, drawn, strict=True)]
        )
        clipped = ((ratio > clip[1]) & (advantage > 0)) | ((ratio < clip[0]) & (advantage < 0))
        figures["train/clip_fraction"] = float(np.mean(clipped))
    return figures


@dataclass(slots=True)
class RlHistory:
    """One entry a step, and one an evaluation; an attempt that goes on starts with what was told.

    Attributes:
        steps: Figures by step, from 1, without gaps.
        evals: Step and reward of each evaluation.
        best_step: The step of the best evaluation; None before the first.
        best_reward: What that found.
        weight_syncs: How often the sampler got new weights.
        synced_version: The version of its weights.
        most_pending: Most groups of rollouts under way at once.
        started: Groups started in all.
    """

    steps: list[Figures] = field(default_factory=list)
    evals: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_reward: float = float("-inf")
    weight_syncs: int = 0
    synced_version: int = 0
    most_pending: int = 0
    started: int = 0
    _told_at: float = field(default_factory=time.monotonic)

    @classmethod
    def told(cls, metrics: dict[str, Any], steps: int) -> "RlHistory":
        """Return the first STEPS steps out of a job's METRICS, or as much as they hold.

        Steps after the checkpoint were told too, and are told again: the last word counts.
        """
        history = cls()
        axis = metrics.get("steps")
        place = {step: at for at, step in enumerate(axis)} if isinstance(axis, list) else {}
        ends = {late: name for name, late in RENAMED.items()}
        series = {
            ends.get(name, name): values
            for name, values in metrics.items()
            if name.startswith("train/") and isinstance(values, list)
        }
        for step in range(1, steps + 1):
            at = place.get(step)
            history.steps.append(
                {n: v[at] for n, v in series.items() if at is not None and at < len(v)}
            )
        evals = zip(
            metrics.get("eval/steps") or [], metrics.get("eval/reward_history") or [], strict=False
        )
        for step, reward in sorted(dict(evals).items()):
            if step <= steps:
                history.evaluated(step, reward)
        syncs = [figures.get("train/weight_sync_count") or 0 for figures in history.steps]
        history.weight_syncs = int(max(syncs, default=0))
        return history

    def at(self, step: int) -> dict[str, float]:
        """Return the rewards of STEP, as far as they were heard: what its checkpoint shows."""
        figures = self.steps[step - 1] if 0 < step <= len(self.steps) else {}
        found = {
            "train/reward": figures.get("train/reward"),
            "eval/reward": dict(self.evals).get(step),
        }
        return {name: reward for name, reward in found.items() if reward is not None}

    def synced(self, version: int) -> None:
        """Note that the sampler got the weights of VERSION."""
        self.weight_syncs += 1
        self.synced_version = version

    def add(self, figures: Figures) -> Figures:
        """Add the next step, with how quick it was, and return all of its figures."""
        now = time.monotonic()
        seconds = max(now - self._told_at, 1e-9)
        self._told_at = now
        figures["train/step_seconds"] = seconds
        for name, of in (("rollouts", "num_rollouts"), ("sampled_tokens", "sampled_tokens")):
            figures[f"train/{name}_per_second"] = (figures[f"train/{of}"] or 0) / seconds
        told = {name: _short(value) for name, value in figures.items()}
        self.steps.append(told)
        return told

    def evaluated(self, step: int, reward: float) -> bool:
        """Add an evaluation, and return whether it is better than all before it."""
        self.evals.append((step, reward))
        if reward <= self.best_reward:
            return False
        self.best_step, self.best_reward = step, reward
        return True

    def total(self, name: str) -> float:
        """Return the sum of a figure over all steps."""
        return sum(figures.get(name) or 0 for figures in self.steps)

    def final_metrics(self) -> dict[str, Any]:
        """Return everything that is known of a finished training, whole series included."""
        names = {name: None for figures in self.steps for name in figures}
        metrics: dict[str, Any] = {
            RENAMED.get(name, name): [figures.get(name) for figures in self.steps] for name in names
        }
        heard = [f for f in self.steps if f.get("train/reward") is not None]
        metrics |= {
            "steps": list(range(1, len(self.steps) + 1)),
            "train/steps": len(self.steps),
            "async/generation_step": self.started,
            "async/training_step": len(self.steps),
            "async/model_version": len(self.steps),
            "async/last_synced_model_version": self.synced_version,
            "async/weight_sync_count": self.weight_syncs,
            "async/max_staleness_observed": max(
                (f.get("train/staleness_max") or 0 for f in self.steps), default=0
            ),
            "async/max_pending_generation_groups": self.most_pending,
            "train/num_rollouts": int(self.total("train/num_rollouts")),
            "tokens/prompt": int(self.total("train/prompt_tokens")),
            "tokens/sampled": int(self.total("train/sampled_tokens")),
            "tokens/trained": int(self.total("train/trained_tokens")),
        }
        if heard:
            metrics |= {
                "train/reward_mean": statistics.fmean(_all(heard, "train/reward")),
                "train/reward_max": max(_all(heard, "train/reward_max")),
                "train/reward_min": min(_all(heard, "train/reward_min")),
            }
        if self.evals:
            metrics |= {
                "eval/reward": self.evals[-1][1],
                "eval/steps": [step for step, _ in self.evals],
                "eval/reward_history": [reward for _, reward in self.evals],
            }
        return metrics


def _short(value: float | None) -> float | None:
    """Round to what a figure means, so that long series stay small."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _all(steps: Sequence[Figures], name: str) -> list[float]:
    return [value for figures in steps if (value := figures.get(name)) is not None]
