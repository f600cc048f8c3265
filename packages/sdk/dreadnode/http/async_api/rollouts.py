"""The rollouts of RL jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import drop_none, get, training_job

if TYPE_CHECKING:
    from dreadnode.training.rollouts import Rollouts


class AsyncRolloutMethods(AsyncRequests):
    """Methods for rollouts."""

    async def get_training_job_rollouts(self, job_id: str, *, step: int | None = None) -> Rollouts:
        """Return the rollouts that an RL job has kept of a step.

        Args:
            job_id: The job.
            step: The step; the newest one that has rollouts if None.

        Raises:
            ConflictError: The job is not an RL job.
            NotFoundError: The job has not kept the rollouts of this step.
        """
        from dreadnode.training.rollouts import Rollouts

        path = f"{training_job(self.scope, job_id)}/rollouts"
        return await self.send(get(path, Rollouts.model_validate_json, drop_none(step=step)))
