"""The metrics of each RL step, and the final metrics of an RL job.

Let `q` be the log-probability of a token under the weights that sampled it, and `p` under the
trainer's weights before the update. Entropy is estimated over all sampled tokens, so that a step
without training sequences has one too; KL and clipping over the tokens trained on:

| metric | formula |
| --- | --- |
| `train/kl_sampler_trainer` | mean of `exp(p - q) - 1 - (p - q)` (estimator k3 of Schulman 2020) |
| `train/entropy` | mean of `-q` |
| `train/clip_fraction` | fraction of tokens whose ratio `exp(p - q)` PPO clips |
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreadnode_runtime.backend.policy import Floats, TrainingSequence
from dreadnode_runtime.rl.rollouts import Group, Rollout

Metrics = dict[str, float | int | None]
RENAMED = {
    "train/num_rollouts": "train/num_rollouts_per_step",
    "train/reward_max": "train/reward_max_per_step",
    "train/reward_min": "train/reward_min_per_step",
}
"""Per-step metrics that the final event reports under another name: theirs is a total there."""


def rollout_metrics(stale_groups: Sequence[tuple[int, Group]]) -> Metrics:
    """Return the metrics of a step's scored groups, each with its staleness in steps."""
    groups = [group for _, group in stale_groups]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.score.value for rollout in rollouts]
    lengths = [rollout.sampled_tokens for rollout in rollouts]
    staleness = [steps for steps, _ in stale_groups]
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
        "train/staleness": statistics.fmean(staleness),
        "train/staleness_max": max(staleness),
        "train/prompt_tokens": sum(rollout.prompt_tokens for rollout in rollouts),
        "train/sampled_tokens": sum(lengths),
    }


def _entropy(rollouts: Sequence[Rollout]) -> float | None:
    """Return the mean of `-q` over all sampled tokens of ROLLOUTS; None if there are none."""
    q = [
        np.asarray(sequence.logprobs)[np.asarray(sequence.sampled_mask, np.bool_)]
        for rollout in rollouts
        for sequence in rollout.sequences
    ]
    logprobs = np.concatenate(q)
    return float(-logprobs.mean()) if len(logprobs) else None


def training_metrics(
    trained: Sequence[tuple[TrainingSequence, Floats]], clip: tuple[float, float] | None
) -> Metrics:
    """Return the metrics of a step's updates.

    Args:
        trained: Each sequence, of T tokens, with the trainer's log-probabilities, shape (T - 1,).
        clip: Lower and upper clipping threshold of the ratio, for PPO.
    """
    names = ("train/kl_sampler_trainer", "train/clip_fraction")
    metrics: Metrics = dict.fromkeys(names)
    metrics["train/trained_tokens"] = sum(len(sequence.tokens) - 1 for sequence, _ in trained)
    if not trained:
        return metrics
    masks = [sequence.sampled_mask[1:] for sequence, _ in trained]
    p = np.concatenate([found[mask] for (_, found), mask in zip(trained, masks, strict=True)])
    q = np.concatenate(
        [sequence.logprobs[1:][mask] for (sequence, _), mask in zip(trained, masks, strict=True)]
    )
    difference = p.astype(np.float64) - q
    with np.errstate(over="ignore"):
        ratio = np.exp(difference)
    kl = float(np.mean(ratio - 1 - difference))
    metrics["train/kl_sampler_trainer"] = kl if np.isfinite(kl) else None
    if clip is not None:
        advantage = np.concatenate(
            [s.advantages[1:][mask] for (s, _), mask in zip(trained, masks, strict=True)]
        )
        clipped = ((ratio > clip[1]) & (advantage > 0)) | ((ratio < clip[0]) & (advantage < 0))
        metrics["train/clip_fraction"] = float(np.mean(clipped))
    return metrics


@dataclass(slots=True)
class RlHistory:
    """One entry for each step and each evaluation; a resumed attempt starts with the earlier ones.

    Attributes:
        steps: Metrics of each step, from step 1, without gaps.
        evals: Step and reward of each evaluation.
        best_step: The step of the best evaluation; None before the first.
        best_reward: Its reward.
        weight_syncs: How many times the sampler got new weights.
        synced_version: Version of the sampler's weights.
        max_pending: Maximum number of groups in flight.
        started: Total number of groups started.
    """

    steps: list[Metrics] = field(default_factory=list)
    evals: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_reward: float = float("-inf")
    weight_syncs: int = 0
    synced_version: int = 0
    max_pending: int = 0
    started: int = 0
    _last_step_at: float = field(default_factory=time.monotonic)

    @classmethod
    def from_metrics(cls, metrics: dict[str, Any], steps: int) -> "RlHistory":
        """Return the first STEPS steps of a job's METRICS, as far as they are known.

        An earlier attempt can have reported steps after its last checkpoint, which this attempt
        repeats: of several values for one step, the last counts.
        """
        history = cls()
        axis = metrics.get("steps")
        position = {step: at for at, step in enumerate(axis)} if isinstance(axis, list) else {}
        step_names = {final: name for name, final in RENAMED.items()}
        series = {
            step_names.get(name, name): values
            for name, values in metrics.items()
            if name.startswith("train/") and isinstance(values, list)
        }
        for step in range(1, steps + 1):
            at = position.get(step)
            history.steps.append(
                {n: v[at] for n, v in series.items() if at is not None and at < len(v)}
            )
        evals = zip(
            metrics.get("eval/steps") or [], metrics.get("eval/reward_history") or [], strict=False
        )
        for step, reward in sorted(dict(evals).items()):
            if step <= steps:
                history.add_evaluation(step, reward)
        syncs = [step.get("train/weight_sync_count") or 0 for step in history.steps]
        history.weight_syncs = int(max(syncs, default=0))
        return history

    def at(self, step: int) -> dict[str, float]:
        """Return the known rewards of STEP, for its checkpoint."""
        metrics = self.steps[step - 1] if 0 < step <= len(self.steps) else {}
        found = {
            "train/reward": metrics.get("train/reward"),
            "eval/reward": dict(self.evals).get(step),
        }
        return {name: reward for name, reward in found.items() if reward is not None}

    def synced(self, version: int) -> None:
        """Count that the sampler got the weights of VERSION."""
        self.weight_syncs += 1
        self.synced_version = version

    def add(self, metrics: Metrics) -> Metrics:
        """Add the next step with its throughput, and return all of its metrics."""
        now = time.monotonic()
        seconds = max(now - self._last_step_at, 1e-9)
        self._last_step_at = now
        metrics["train/step_seconds"] = seconds
        for name, of in (("rollouts", "num_rollouts"), ("sampled_tokens", "sampled_tokens")):
            metrics[f"train/{name}_per_second"] = (metrics[f"train/{of}"] or 0) / seconds
        rounded = {name: _rounded(value) for name, value in metrics.items()}
        self.steps.append(rounded)
        return rounded

    def add_evaluation(self, step: int, reward: float) -> bool:
        """Add an evaluation, and return whether it is the best so far."""
        self.evals.append((step, reward))
        if reward <= self.best_reward:
            return False
        self.best_step, self.best_reward = step, reward
        return True

    def total(self, name: str) -> float:
        """Return the sum of a metric over all steps."""
        return sum(step.get(name) or 0 for step in self.steps)

    def final_metrics(self) -> dict[str, Any]:
        """Return the final metrics of the job, with the value of each step."""
        names = {name: None for step in self.steps for name in step}
        metrics: dict[str, Any] = {
            RENAMED.get(name, name): [step.get(name) for step in self.steps] for name in names
        }
        known = [step for step in self.steps if step.get("train/reward") is not None]
        metrics |= {
            "steps": list(range(1, len(self.steps) + 1)),
            "train/steps": len(self.steps),
            "async/generation_step": self.started,
            "async/training_step": len(self.steps),
            "async/model_version": len(self.steps),
            "async/last_synced_model_version": self.synced_version,
            "async/weight_sync_count": self.weight_syncs,
            "async/max_staleness_observed": max(
                (step.get("train/staleness_max") or 0 for step in self.steps), default=0
            ),
            "async/max_pending_generation_groups": self.max_pending,
            "train/num_rollouts": int(self.total("train/num_rollouts")),
            "tokens/prompt": int(self.total("train/prompt_tokens")),
            "tokens/sampled": int(self.total("train/sampled_tokens")),
            "tokens/trained": int(self.total("train/trained_tokens")),
        }
        if known:
            metrics |= {
                "train/reward_mean": statistics.fmean(_values(known, "train/reward")),
                "train/reward_max": max(_values(known, "train/reward_max")),
                "train/reward_min": min(_values(known, "train/reward_min")),
            }
        if self.evals:
            metrics |= {
                "eval/reward": self.evals[-1][1],
                "eval/steps": [step for step, _ in self.evals],
                "eval/reward_history": [reward for _, reward in self.evals],
            }
        return metrics


def _rounded(value: float | None) -> float | None:
    """Round to single precision, so that long series stay small."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _values(steps: Sequence[Metrics], name: str) -> list[float]:
    return [value for step in steps if (value := step.get(name)) is not None]
