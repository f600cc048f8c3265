"""The checkpoints of jobs."""

from __future__ import annotations

from pathlib import Path

from dreadnode.errors import UnusableFile
from dreadnode.http.adapter_files import LOCAL_FILES, local_adapter
from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import Call, body_of, get, segment, training_job, workspace
from dreadnode.lazy_types import checkpoints

EXPORT_SECONDS = 3600.0
"""Longer than a server takes for an export, unless its own limit was raised to hours."""


class AsyncCheckpointMethods(AsyncRequests):
    """Methods for checkpoints."""

    async def list_training_job_checkpoints(self, job_id: str) -> checkpoints.CheckpointList:
        """List a job's checkpoints on the engine, oldest first."""
        path = f"{training_job(self.scope, job_id)}/checkpoints"
        return await self.send(get(path, checkpoints.CheckpointList.model_validate_json))

    async def delete_training_job_checkpoint(
        self, job_id: str, name: str
    ) -> checkpoints.CheckpointList:
        """Delete a checkpoint by its name, and return the job's checkpoints.

        Raises:
            ConflictError: An unfinished job would resume from it.
        """
        path = f"{training_job(self.scope, job_id)}/checkpoints/{segment(name)}"
        return await self.send(Call("DELETE", path, checkpoints.CheckpointList.model_validate_json))

    async def upload_adapter(self, folder: Path | str, model: str) -> checkpoints.UploadedAdapter:
        """Upload a LoRA adapter in PEFT's format, so that jobs on MODEL can start from it.

        Args:
            folder: The local folder with the adapter's files.
            model: The base model that it was trained on.

        Raises:
            UnusableFile: The folder holds no adapter.
            ApiError: The adapter is not one of MODEL.
        """
        found = local_adapter(Path(folder))
        if found is None:
            raise UnusableFile(f"{folder} is not a folder with an adapter")
        call = Call(
            "POST",
            f"{workspace(self.scope)}/training/adapters",
            checkpoints.UploadedAdapter.model_validate_json,
            params={"model": model},
            files={name: (found / name, name) for name in LOCAL_FILES},
            seconds=EXPORT_SECONDS,
        )
        return await self.send(call)

    async def export_training_job_checkpoint(
        self, job_id: str, checkpoint: str
    ) -> checkpoints.CheckpointAdapter:
        """Export a checkpoint as an adapter among the job's files; the first time takes minutes.

        Args:
            job_id: The job.
            checkpoint: The checkpoint's name or path, or `best`.
        """
        call = Call(
            "POST",
            f"{training_job(self.scope, job_id)}/checkpoints/adapter",
            checkpoints.CheckpointAdapter.model_validate_json,
            body=body_of(checkpoints.AdapterRequest(checkpoint=checkpoint)),
            repeatable=True,
            seconds=EXPORT_SECONDS,
        )
        return await self.send(call)
