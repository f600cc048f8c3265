"""The losses of Tinker, per token. A loss is the sum over tokens, not the mean.

The formulas are those of Tinker's documentation. With `p` the log-probability of a target token
under the current weights, `q` the one under the weights that sampled it, and `r = exp(p - q)`:

=====================  ==================================================
cross_entropy          ``-p * weight``
importance_sampling    ``-r * advantage``
ppo                    ``-min(r * advantage, clip(r, low, high) * advantage)``
cispo                  ``-stop_gradient(clip(r, low, high)) * advantage * p``
dro                    ``-(p * advantage - beta / 2 * (p - q) ** 2)``
=====================  ==================================================
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreadnode_engine.errors import OperationFailed

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]


@dataclass(frozen=True)
class Loss:
    """One loss: its formula, its inputs beside the targets, and its settings.

    Attributes:
        elementwise: (log-probabilities, inputs, config) -> loss per token, same shape.
        inputs: names of the per-token tensors it reads.
        defaults: its settings and what they are when not given.
        gain: the input that multiplies every gradient, if there is one: where it is zero, the
            gradient is zero.
    """

    elementwise: Callable[[Tensor, Inputs, Config], Tensor]
    inputs: tuple[str, ...]
    defaults: Config
    gain: str | None


def _cross_entropy(p: Tensor, inputs: Inputs, _: Config) -> Tensor:
    return -p * inputs["weights"]


def _importance_sampling(p: Tensor, inputs: Inputs, _: Config) -> Tensor:
    return -torch.exp(p - inputs["logprobs"]) * inputs["advantages"]


def _ppo(p: Tensor, inputs: Inputs, config: Config) -> Tensor:
    ratio, advantages = torch.exp(p - inputs["logprobs"]), inputs["advantages"]
    clipped = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return -torch.minimum(ratio * advantages, clipped * advantages)


def _cispo(p: Tensor, inputs: Inputs, config: Config) -> Tensor:
    ratio = torch.exp(p.detach() - inputs["logprobs"])
    clipped = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return -clipped * inputs["advantages"] * p


def _dro(p: Tensor, inputs: Inputs, config: Config) -> Tensor:
    penalty = 0.5 * config["beta"] * (p - inputs["logprobs"]) ** 2
    return -(p * inputs["advantages"] - penalty)


_CLIP = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
_POLICY = ("logprobs", "advantages")

LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(_cross_entropy, ("weights",), {}, gain="weights"),
    "importance_sampling": Loss(_importance_sampling, _POLICY, {}, gain="advantages"),
    "ppo": Loss(_ppo, _POLICY, _CLIP, gain="advantages"),
    "cispo": Loss(_cispo, _POLICY, _CLIP, gain="advantages"),
    "dro": Loss(_dro, _POLICY, {"beta": 0.05}, gain=None),
}

_NOT_HERE = {
    "gspo": "has no public formula of Tinker for its sequence-level ratio",
    "stable_reinforce": "needs sampler records that no public document describes",
    "custom": "runs in the client; call `forward_backward_custom`, which sends cross_entropy",
}


def find_loss(name: str, config: Mapping[str, float | str]) -> tuple[Loss, Config]:
    """Return the loss NAME with every setting resolved, or raise `OperationFailed`."""
    loss = LOSSES.get(name)
    if loss is None:
        why = _NOT_HERE.get(name, "is not a loss of Tinker")
        raise OperationFailed(f"The loss `{name}` {why}; this engine computes {', '.join(LOSSES)}")
    resolved = dict(loss.defaults)
    for key, value in config.items():
        if key not in loss.defaults:
            known = ", ".join(loss.defaults) or "no settings"
            raise OperationFailed(f"The loss `{name}` has no setting `{key}`; it takes {known}")
        if isinstance(value, str) or not -1e30 < value < 1e30:
            raise OperationFailed(f"The setting `{key}` of the loss `{name}` must be a number")
        resolved[key] = float(value)
    low, high = resolved.get("clip_low_threshold", 0.0), resolved.get("clip_high_threshold", 0.0)
    if low > high or low < 0:
        raise OperationFailed(
            f"The loss `{name}` needs 0 <= clip_low_threshold <= clip_high_threshold, "
            f"not {low} and {high}"
        )
    return loss, resolved
