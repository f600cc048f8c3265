"""The modules with the types of requests and responses, each imported when a call first uses it.

They import pydantic, which takes longer to import than most commands take to run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreadnode import webhooks as webhooks
    from dreadnode import wire as wire
    from dreadnode.training import chat as chat
    from dreadnode.training import checkpoints as checkpoints
    from dreadnode.training import costs as costs
    from dreadnode.training import estimates as estimates
    from dreadnode.training import evaluations as evaluations
    from dreadnode.training import jobs as jobs
    from dreadnode.training import preflight as preflight
    from dreadnode.training import rl as rl
    from dreadnode.training import rollouts as rollouts
else:

    class _Module:
        """A module that is imported with the first use of one of its types."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self._name), name)

    wire, webhooks = _Module("dreadnode.wire"), _Module("dreadnode.webhooks")
    chat = _Module("dreadnode.training.chat")
    checkpoints = _Module("dreadnode.training.checkpoints")
    costs = _Module("dreadnode.training.costs")
    estimates = _Module("dreadnode.training.estimates")
    evaluations = _Module("dreadnode.training.evaluations")
    jobs = _Module("dreadnode.training.jobs")
    preflight = _Module("dreadnode.training.preflight")
    rl = _Module("dreadnode.training.rl")
    rollouts = _Module("dreadnode.training.rollouts")
