"""What the request for a reinforcement-learning job holds."""

from __future__ import annotations

from dreadnode.training.rl_request import Recipe, RlConfig, RlRequest

__all__ = ["Recipe", "RlConfig", "RlRequest"]
