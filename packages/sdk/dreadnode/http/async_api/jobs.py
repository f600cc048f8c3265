"""Training jobs, from their creation to their files."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2

from dreadnode.errors import ConnectionFailed, NotFoundError, ProtocolError, ServerError, refusal
from dreadnode.http.async_api.account import AsyncAccountMethods
from dreadnode.http.async_api.checkpoints import AsyncCheckpointMethods
from dreadnode.http.calls import (
    Call,
    T,
    body_of,
    drop_none,
    get,
    training_job,
    training_job_file,
    workspace,
)
from dreadnode.http.job_handles import only_job
from dreadnode.http.retries import RECONNECT_SECONDS, JobWait
from dreadnode.http.transport import EventStream, expect_valid
from dreadnode.lazy_types import chat, estimates, evaluations, jobs, preflight

if TYPE_CHECKING:
    from dreadnode.http.references import AnyJobRequest

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID_PREFIX = re.compile(r"[0-9a-f][0-9a-f-]{3,35}")
CHAT_SECONDS = 600.0
"""Longer than any server takes for one chat message."""

CHECK_SECONDS = 3660.0
"""Longer than a server checks data, unless its own limit was raised."""


class AsyncJobMethods(AsyncAccountMethods, AsyncCheckpointMethods):
    """Methods for training jobs."""

    async def create_training_job(
        self, request: AnyJobRequest, *, idempotency_key: str | None = None
    ) -> jobs.TrainingJob:
        """Submit a training job.

        Args:
            request: The job.
            idempotency_key: A second request with the same key returns the first job. If None, the
                client creates one, so that it can repeat the call after a lost response.
        """
        call = Call(
            "POST",
            f"{workspace(self.scope)}/training/jobs",
            jobs.TrainingJob.model_validate_json,
            body=body_of(request),
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
            repeatable=True,
        )
        return await self.send(call)

    async def check_training_job(
        self, request: AnyJobRequest, *, show: int | None = None, compare: bool = False
    ) -> preflight.PreflightReport:
        """Report what is known of a job before it exists: its data, its warnings and its price.

        Nothing is created and nothing is charged. What would refuse the job refuses this call with
        the same message.

        Args:
            request: The job.
            show: The number of a row to return as text; the first usable one if None.
            compare: Whether to price the job on every model of the catalog.
        """
        call = Call(
            "POST",
            f"{workspace(self.scope)}/training/preflight",
            preflight.PreflightReport.model_validate_json,
            params=drop_none(show=show, compare=compare or None),
            body=body_of(request),
            repeatable=True,
            seconds=CHECK_SECONDS,
        )
        return await self.send(call)

    async def estimate_training_job(self, request: AnyJobRequest) -> estimates.Estimate:
        """Return the price of a job before it exists; `check_training_job` reports more.

        Raises:
            ProtocolError: The number of tokens is not known.
        """
        report = await self.check_training_job(request)
        if report.price is None:
            raise ProtocolError(
                f"the server cannot count the tokens of {report.model.tinker_id}; see whether its "
                "API and its runtime have the same version"
            )
        return report.price

    async def list_training_jobs(
        self,
        *,
        page: int = 1,
        page_size: int = 20,
        status: str | None = None,
        backend: str | None = None,
        trainer_type: str | None = None,
        project_ref: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        model: str | None = None,
        username: str | None = None,
        id_prefix: str | None = None,
        evaluations: bool = True,
    ) -> jobs.TrainingJobPage:
        """List the workspace's jobs, newest first; each argument but the page is a filter."""
        params = drop_none(
            page=page,
            page_size=page_size,
            status=status,
            backend=backend,
            trainer_type=trainer_type,
            project_ref=project_ref,
            name=name,
            tag=tag,
            model=model,
            username=username,
            id_prefix=id_prefix,
            evaluations=evaluations or None,
        )
        path = f"{workspace(self.scope)}/training/jobs"
        return await self.send(get(path, jobs.TrainingJobPage.model_validate_json, params))

    async def get_training_job(self, job_id: str) -> jobs.TrainingJob:
        """Return one job."""
        return await self.send(
            get(training_job(self.scope, job_id), jobs.TrainingJob.model_validate_json)
        )

    async def find_training_job(self, handle: str, *, evaluations: bool = True) -> str:
        """Return the id of the job that HANDLE means.

        Args:
            handle: The job's id or the unique start of it, its unique name, or `last` for the
                user's newest job.
            evaluations: Whether it may be an evaluation.

        Raises:
            NotFoundError: No job matches.
            InputError: Several jobs match.
        """
        if _ID.fullmatch(handle):
            return handle
        if handle == "last":
            user = await self.get_user()
            found = await self.list_training_jobs(
                username=user.username, page_size=1, evaluations=evaluations
            )
            return only_job(found, "last")
        found = await self.list_training_jobs(name=handle, page_size=2, evaluations=evaluations)
        if not found.items and _ID_PREFIX.fullmatch(handle):
            found = await self.list_training_jobs(
                id_prefix=handle, page_size=2, evaluations=evaluations
            )
        return only_job(found, handle)

    async def resolve_model(self, model: str) -> str:
        """Return MODEL as the server takes it: `last` and the start of an id become an id.

        Args:
            model: A job as for `find_training_job`, the same with `@CHECKPOINT`, a catalog id or a
                `tinker://` path. What matches no job is returned as it is.
        """
        handle, at, checkpoint = model.partition("@")
        if handle != "last" and not _ID_PREFIX.fullmatch(handle):
            return model
        try:
            return f"{await self.find_training_job(handle, evaluations=False)}{at}{checkpoint}"
        except NotFoundError:
            return model

    async def get_evaluation(self, job_id: str) -> evaluations.EvaluationResult:
        """Return the result of an evaluation that has ended.

        Raises:
            ConflictError: The evaluation has not ended.
            NotFoundError: The job is not an evaluation, or it has no result.
        """
        path = f"{training_job(self.scope, job_id)}/evaluation"
        return await self.send(get(path, evaluations.EvaluationResult.model_validate_json))

    async def get_evaluation_rows(self, job_id: str) -> list[evaluations.EvaluatedRow]:
        """Return what each model got on each row of an evaluation that has ended, row by row."""
        content = await self.training_job_file(job_id, "evaluation/rows.jsonl")
        return [evaluations.EvaluatedRow.model_validate_json(line) for line in content.splitlines()]

    async def cancel_training_job(self, job_id: str) -> jobs.TrainingJob:
        """Ask a job to stop; a running job saves a checkpoint first."""
        path = f"{training_job(self.scope, job_id)}/cancel"
        return await self.send(Call("POST", path, jobs.TrainingJob.model_validate_json))

    async def delete_training_job(self, job_id: str) -> jobs.TrainingJob:
        """Delete an ended job with its log, files and checkpoints, and return it.

        Raises:
            ConflictError: The job has not ended, or another job retries it.
        """
        path = training_job(self.scope, job_id)
        return await self.send(Call("DELETE", path, jobs.TrainingJob.model_validate_json))

    async def retry_training_job(
        self,
        job_id: str,
        *,
        from_start: bool = False,
        max_cost_usd: float | None = None,
        idempotency_key: str | None = None,
    ) -> jobs.TrainingJob:
        """Create a job that repeats an ended one from its newest checkpoint.

        The new job's `start_step` is the step of that checkpoint.

        Args:
            job_id: A failed or cancelled job, or one that its budget stopped.
            from_start: Start at step 0 and ignore the checkpoints. A job whose checkpoints have all
                expired is refused without it.
            max_cost_usd: Another limit of the cost, that of the retried jobs included.
            idempotency_key: As for `create_training_job`.
        """
        body = drop_none(from_start=from_start or None, max_cost_usd=max_cost_usd)
        call = Call(
            "POST",
            f"{training_job(self.scope, job_id)}/retry",
            jobs.TrainingJob.model_validate_json,
            body=json.dumps(body).encode() if body else None,
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
            repeatable=True,
        )
        return await self.send(call)

    async def wait_for_training_job(
        self,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the job's time, not this call's
        interval: float = 1.0,
        max_outage: float = 300.0,
        on_update: Callable[[jobs.TrainingJob | None], None] | None = None,
    ) -> jobs.TrainingJob:
        """Wait until a job has completed, through restarts of the server, and return it.

        Args:
            job_id: The job.
            timeout: The longest wait in seconds; None waits without a limit.
            interval: Seconds between two requests.
            max_outage: Seconds without a response after which the server counts as gone.
            on_update: Called with the job after each request, and with None without a response.

        Raises:
            JobEnded: The job failed or was cancelled.
            WaitTimedOut: The job still runs after the timeout.
        """
        wait = JobWait(timeout=timeout, max_outage=max_outage)
        while True:
            job: jobs.TrainingJob | None = None
            try:
                job = await self.get_training_job(job_id)
            except (ConnectionFailed, ServerError) as failure:
                wait.failed(failure)
            if on_update:
                on_update(job)
            if job and wait.is_over(job):
                return job
            await self._sleep(interval)

    async def watch_training_job(
        self,
        job_id: str,
        *,
        after: int = 0,
        max_outage: float = 300.0,
        on_connection: Callable[[bool], None] | None = None,
    ) -> AsyncIterator[jobs.JobEvent]:
        """Yield a job's events until it has ended, through restarts of the server.

        Args:
            job_id: The job.
            after: Only events after the one with this id.
            max_outage: Seconds without a connection after which the server counts as gone.
            on_connection: Called with False when the connection is lost, with True when it is back.
        """
        events = EventStream(self.scope, job_id, after, max_outage, on_connection)
        while True:
            try:
                async with self._open(events.call()) as response:
                    events.connected()
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    async for event in httpx2.EventSource(response):
                        if parsed := events.parse(event, response):
                            yield parsed
            except (ConnectionFailed, ServerError) as failure:
                events.failed(failure)
            await self._sleep(RECONNECT_SECONDS)

    async def list_training_job_logs(
        self,
        job_id: str,
        *,
        after: int | None = None,
        level: str | None = None,
        since: datetime | None = None,
        tail: int | None = None,
        query: str | None = None,
    ) -> jobs.LogEntries:
        """Return a job's log, oldest line first.

        Args:
            job_id: The job.
            after: Only lines after the one with this cursor.
            level: The lowest level.
            since: Only lines from this time on; without a zone, in this machine's zone.
            tail: Only this many lines, the last ones.
            query: Only lines that contain this text.
        """
        start = None if since is None else since.astimezone(UTC).isoformat()
        params = drop_none(after=after, level=level, since=start, tail=tail, query=query)
        path = f"{training_job(self.scope, job_id)}/logs"
        return await self.send(get(path, jobs.LogEntries.model_validate_json, params))

    async def get_training_job_artifacts(self, job_id: str) -> jobs.Artifacts:
        """Return a job's artifacts by name."""
        path = f"{training_job(self.scope, job_id)}/artifacts"
        return await self.send(get(path, jobs.Artifacts.model_validate_json))

    async def list_training_job_files(self, job_id: str) -> jobs.JobFiles:
        """List the files of a job, with the files of its adapter."""
        path = f"{training_job(self.scope, job_id)}/files"
        return await self.send(get(path, jobs.JobFiles.model_validate_json))

    async def training_job_file(self, job_id: str, path: str) -> bytes:
        """Return the bytes of one file of a job."""
        return await self.send(training_job_file(self.scope, job_id, path))

    async def chat_with_training_job(
        self, job_id: str, request: chat.ChatRequest
    ) -> chat.ChatAnswer:
        """Sample the next message of a conversation from the job's weights."""
        return await self.send(self._chat(job_id, request, chat.ChatAnswer.model_validate_json))

    async def stream_chat_with_training_job(
        self, job_id: str, request: chat.ChatRequest
    ) -> AsyncIterator[chat.ChatLine]:
        """Sample the next message, and yield its parts while the model samples.

        The last line has the whole answer.

        Raises:
            DreadnodeError: The request is refused, or the answer ends early.
        """
        streamed = request.model_copy(update={"stream": True})
        call = self._chat(job_id, streamed, chat.ChatLine.model_validate_json)
        line = chat.ChatLine()
        async with self._open(call) as response:
            async for text in response.aiter_lines():
                with expect_valid(call, response):
                    line = call.parse(text.encode())
                if line.error is not None:
                    body = json.dumps(line.error).encode()
                    raise refusal(int(line.error.get("code", 500)), response.headers, body)
                yield line
        if line.answer is None:
            raise ConnectionFailed("the server ended the answer early; send the message again")

    def _chat(self, job_id: str, request: chat.ChatRequest, parse: Callable[[bytes], T]) -> Call[T]:
        path = f"{training_job(self.scope, job_id)}/chat"
        return Call("POST", path, parse, body=body_of(request), seconds=CHAT_SECONDS)
