"""The rollouts of RL jobs."""

from __future__ import annotations

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import drop_none, get, training_job
from dreadnode.lazy_types import rollouts


class AsyncRolloutMethods(AsyncRequests):
    """Methods for rollouts."""

    async def get_training_job_rollouts(
        self, job_id: str, *, step: int | None = None
    ) -> rollouts.Rollouts:
        """Return the rollouts that an RL job has kept of a step.

        Args:
            job_id: The job.
            step: The step; the newest one that has rollouts if None.

        Raises:
            ConflictError: The job is not an RL job.
            NotFoundError: The job has not kept the rollouts of this step.
        """
        path = f"{training_job(self.scope, job_id)}/rollouts"
        return await self.send(
            get(path, rollouts.Rollouts.model_validate_json, drop_none(step=step))
        )
