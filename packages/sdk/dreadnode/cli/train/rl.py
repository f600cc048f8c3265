"""`dn train rl`."""

from __future__ import annotations

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.train.arguments import RlJob, Yes, requested
from dreadnode.cli.train.sft import Wait, create


def rl(
    *,
    job: RlJob,
    wait: Wait = False,
    yes: Yes = False,
    common: Common = DEFAULT,
) -> None:
    """Submit a reinforcement-learning job.

    The model samples several completions for each prompt, a reward scores them, and the model
    learns from the scores. The reward is tried on the first rows before the job is accepted. A job
    that costs money shows its price and asks first.
    """
    with requested(job, common) as (client, request):
        create(client, request, common, yes=yes, wait=wait)
