"""Training in one call: data is uploaded, references are plain strings, adapters are downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreadnode.http.adapter_files import (
    AdapterFiles,
    exported_adapter,
    final_adapter,
    is_complete,
    local_adapter,
    missing_adapter,
)
from dreadnode.http.async_api.checkpoints import AsyncCheckpointMethods
from dreadnode.http.async_api.datasets import AsyncDatasetMethods
from dreadnode.http.async_api.jobs import AsyncJobMethods
from dreadnode.http.calls import training_job_file
from dreadnode.http.references import capability_ref, dataset_ref, job_request, local_path
from dreadnode.lazy_types import evaluations, jobs, rl, wire
from dreadnode.recipes import scoring

if TYPE_CHECKING:
    from dreadnode.http.references import CapabilityLike, DatasetLike


REHEARSED = (
    "the rehearsal starts with a new adapter: its stand-in has other shapes than the adapter in {}"
)


class AsyncTrainingMethods(AsyncDatasetMethods, AsyncJobMethods, AsyncCheckpointMethods):
    """Methods that do in one call what a training usually needs."""

    async def train_sft(
        self,
        model: str,
        dataset: DatasetLike,
        *,
        eval_dataset: DatasetLike | None = None,
        capability: CapabilityLike | None = None,
        rehearse: bool = False,
        rehearse_first: bool = False,
        rehearse_steps: int | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        **settings: Any,
    ) -> jobs.TrainingJob:
        """Submit a supervised fine-tuning job, and return it without waiting for its end.

        Args:
            model: The base model: the `tinker_id` of a catalog entry.
            dataset: A file or a folder, which is uploaded; or `name@version`, a dict, a reference.
            eval_dataset: The evaluation dataset, in the same forms.
            capability: The capability with the system prompt: `name@version`, a dict, a reference.
            rehearse: Train a small stand-in model instead: same data, config and loop.
            rehearse_first: Rehearse first; the job starts only if its rehearsal completes.
            rehearse_steps: Steps of the rehearsal; all steps of the job if not set.
            name: The name of the job.
            tags: The tags of the job.
            settings: The settings of `dreadnode.training.jobs.SftConfig`, for instance `steps=100`.

        Raises:
            InputError: A setting is unknown or out of bounds.
        """
        config = {
            "dataset_ref": await self.resolve_dataset(dataset),
            "eval_dataset_ref": await self.resolve_dataset(eval_dataset) if eval_dataset else None,
            **settings,
        }
        config["from_adapter"] = await self.resolve_adapter(
            settings.get("from_adapter"), model, rehearse=rehearse
        )
        request = job_request(
            jobs.SftRequest,
            config,
            model=model,
            capability_ref=capability_ref(capability),
            rehearse=rehearse,
            rehearse_first=rehearse_first,
            rehearse_steps=rehearse_steps,
            name=name,
            tags=tuple(tags),
        )
        return await self.create_training_job(request)

    async def train_rl(
        self,
        model: str,
        prompt_dataset: DatasetLike | None = None,
        *,
        trajectory_datasets: Sequence[DatasetLike] = (),
        reward: str | Path | Mapping[str, Any] | rl.Recipe | None = None,
        reward_params: Mapping[str, Any] | None = None,
        environment: Path | Mapping[str, Any] | rl.Recipe | None = None,
        algorithm: str = "importance_sampling",
        eval_dataset: DatasetLike | None = None,
        capability: CapabilityLike | None = None,
        rehearse: bool = False,
        rehearse_first: bool = False,
        rehearse_steps: int | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        **settings: Any,
    ) -> jobs.TrainingJob:
        """Submit a reinforcement-learning job, and return it without waiting for its end.

        Args:
            model: The base model: the `tinker_id` of a catalog entry.
            prompt_dataset: A file or a folder, which is uploaded; or `name@version`, a dict, a
                reference.
            trajectory_datasets: Trajectories, in the same forms.
            reward: The name of a reward recipe, a .py file with a function `reward`, or a dict.
            reward_params: The parameters of that recipe or function.
            environment: A .py file with tools, or a dict.
            algorithm: `importance_sampling` or `ppo`.
            eval_dataset: The evaluation dataset, in the same forms.
            capability: The capability with the system prompt: `name@version`, a dict, a reference.
            rehearse: Train a small stand-in model instead: same data, config and loop.
            rehearse_first: Rehearse first; the job starts only if its rehearsal completes.
            rehearse_steps: Steps of the rehearsal; all steps of the job if not set.
            name: The name of the job.
            tags: The tags of the job.
            settings: The settings of `dreadnode.training.rl.RlConfig`, for instance `steps=100`.

        Raises:
            InputError: A setting is unknown or out of bounds.
        """
        settings |= scoring(reward, reward_params, environment)
        if prompt_dataset is not None:
            settings["prompt_dataset_ref"] = await self.resolve_dataset(prompt_dataset)
        if trajectory_datasets:
            refs = [await self.resolve_dataset(each) for each in trajectory_datasets]
            settings["trajectory_dataset_refs"] = tuple(refs)
        settings["from_adapter"] = await self.resolve_adapter(
            settings.get("from_adapter"), model, rehearse=rehearse
        )
        if eval_dataset is not None:
            settings["eval_dataset_ref"] = await self.resolve_dataset(eval_dataset)
        request = job_request(
            rl.RlRequest,
            {"algorithm": algorithm, **settings},
            model=model,
            capability_ref=capability_ref(capability),
            rehearse=rehearse,
            rehearse_first=rehearse_first,
            rehearse_steps=rehearse_steps,
            name=name,
            tags=tuple(tags),
        )
        return await self.create_training_job(request)

    async def evaluate(
        self,
        models: str | Sequence[str],
        dataset: DatasetLike,
        *,
        reward: str | Path | Mapping[str, Any] | rl.Recipe | None = None,
        reward_params: Mapping[str, Any] | None = None,
        environment: Path | Mapping[str, Any] | rl.Recipe | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - the job's time, not this call's
        **settings: Any,
    ) -> evaluations.EvaluationResult:
        """Evaluate models on the same rows, wait for the end, and return the result.

        Args:
            models: Catalog ids, jobs (id, unique start of it, name or `last`), `JOB@best`,
                `JOB@step-000100`, `tinker://` paths. The base model of a job is added in front.
            dataset: A file or a folder, which is uploaded; or `name@version`, a dict, a reference.
            reward: The name of a reward recipe, a .py file with a function `reward`, or a dict;
                without it only the loss is computed.
            reward_params: The parameters of that recipe or function.
            environment: A .py file with tools, or a dict.
            name: The name of the job.
            tags: The tags of the job.
            timeout: The longest wait in seconds; None waits without a limit.
            settings: The settings of `dreadnode.training.evaluations.EvalConfig`, for instance
                `samples=4`.

        Raises:
            InputError: A setting is unknown or out of bounds.
            JobEnded: The job failed or was cancelled.
            WaitTimedOut: The job still runs after the timeout.
        """
        named = [models] if isinstance(models, str) else models
        config = {
            "models": tuple([await self.resolve_model(each) for each in named]),
            "dataset_ref": await self.resolve_dataset(dataset),
            **scoring(reward, reward_params, environment),
            **settings,
        }
        request = job_request(evaluations.EvalRequest, config, name=name, tags=tuple(tags))
        job = await self.create_training_job(request)
        await self.wait_for_training_job(job.id, timeout=timeout)
        return await self.get_evaluation(job.id)

    async def resolve_dataset(self, dataset: DatasetLike) -> wire.DatasetRef:
        """Return the reference of a dataset; a file or a folder is uploaded first."""
        path = local_path(dataset)
        if path is not None:
            return (await self.upload_dataset(path)).ref
        return dataset_ref(dataset)

    async def resolve_adapter(
        self, start: str | Path | None, model: str, *, rehearse: bool = False
    ) -> str | None:
        """Return what a job on MODEL starts from as the server takes it; a folder is uploaded.

        A rehearsal does not take a folder: it trains a stand-in, whose layers have other shapes, so
        it starts with a new adapter, and a warning says so.

        Args:
            start: A folder with a LoRA adapter of PEFT, a job as for `resolve_model`, or a
                `tinker://` path; None for a new adapter.
            model: The base model of the job.
            rehearse: Whether the job is a rehearsal.

        Raises:
            UnusableFile: The folder holds no adapter.
        """
        if start is None:
            return None
        folder = local_adapter(start)
        if folder is None:
            return await self.resolve_model(str(start))
        if rehearse:
            warnings.warn(REHEARSED.format(folder), stacklevel=3)
            return None
        return (await self.upload_adapter(folder, model)).path

    async def find_adapter(self, job_id: str, *, best: bool = False) -> AdapterFiles:
        """Return the files of a job's final adapter, or of the best one.

        Raises:
            ConfigError: The job has no adapter.
        """
        files = await self.list_training_job_files(job_id)
        found = final_adapter(files.items, best=best)
        if found is None:
            raise missing_adapter(await self.get_training_job(job_id))
        return found

    async def export_adapter(self, job_id: str, checkpoint: str) -> AdapterFiles:
        """Export a checkpoint as an adapter, and return its files; the first time takes minutes."""
        return exported_adapter(await self.export_training_job_checkpoint(job_id, checkpoint))

    async def download_files(
        self,
        job_id: str,
        adapter: AdapterFiles,
        folder: Path,
        *,
        on_file: Callable[[Path, int], None] | None = None,
    ) -> None:
        """Download the files of an adapter into FOLDER.

        Args:
            job_id: The job.
            adapter: The files.
            folder: The local folder. A complete file is kept; another one is never overwritten.
            on_file: Called after each download with the path and the size of the file.

        Raises:
            UnusableFile: A file exists with other content, or cannot be written.
        """
        for file in adapter.files:
            target = adapter.target(file, folder)
            if is_complete(target, file):
                continue
            call = training_job_file(self.scope, job_id, file.path)
            await self.save(call, target, sha256=file.sha256)
            if on_file:
                on_file(target, file.bytes)

    async def download_adapter(
        self,
        job_id: str,
        folder: Path | str,
        *,
        checkpoint: str | None = None,
        best: bool = False,
    ) -> Path:
        """Download an adapter of a job, in the format of PEFT, and return its folder.

        Args:
            job_id: The job.
            folder: The local folder.
            checkpoint: A checkpoint's name or path, which the engine exports; else the final
                adapter.
            best: Download the adapter of the best evaluation instead.
        """
        if checkpoint is not None:
            adapter = await self.export_adapter(job_id, checkpoint)
        else:
            adapter = await self.find_adapter(job_id, best=best)
        await self.download_files(job_id, adapter, Path(folder))
        return Path(folder)
