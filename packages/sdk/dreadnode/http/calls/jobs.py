"""Training jobs, from their submission to what they leave."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, body_of, get, given, one, segment, type_of, workspace

if TYPE_CHECKING:
    from dreadnode.training.chat import ChatAnswer, ChatRequest
    from dreadnode.training.checkpoints import CheckpointAdapter, CheckpointList
    from dreadnode.training.jobs import (
        Artifacts,
        JobFiles,
        LogEntries,
        SftRequest,
        TrainingJob,
        TrainingJobPage,
    )
    from dreadnode.training.rl import RlRequest

CHAT_SECONDS = 600.0
"""Longer than any server lets a model think."""

EXPORT_SECONDS = 3600.0
"""Longer than a server waits for the engine, unless somebody has set it to wait for hours."""


def create_training_job(
    scope: Scope, /, request: SftRequest | RlRequest, *, idempotency_key: str | None = None
) -> Call[TrainingJob]:
    """Submit a training job.

    The key makes a second sending of the same request give back the first job; a fresh one is made
    if none is given, so that the client may repeat the call when no answer came.
    """
    return Call(
        "POST",
        _jobs(scope),
        one("training.jobs", "TrainingJob"),
        body=body_of(request),
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        repeatable=True,
    )


def list_training_jobs(
    scope: Scope,
    /,
    *,
    page: int = 1,
    page_size: int = 20,
    status: str | None = None,
    backend: str | None = None,
    trainer_type: str | None = None,
    project_ref: str | None = None,
) -> Call[TrainingJobPage]:
    """The workspace's jobs, newest first."""
    params = given(
        page=page,
        page_size=page_size,
        status=status,
        backend=backend,
        trainer_type=trainer_type,
        project_ref=project_ref,
    )
    return get(_jobs(scope), one("training.jobs", "TrainingJobPage"), params)


def get_training_job(scope: Scope, /, job_id: str) -> Call[TrainingJob]:
    """One job."""
    return get(_job(scope, job_id), one("training.jobs", "TrainingJob"))


def cancel_training_job(scope: Scope, /, job_id: str) -> Call[TrainingJob]:
    """Ask a job to stop; a running one saves a checkpoint first."""
    return Call("POST", f"{_job(scope, job_id)}/cancel", one("training.jobs", "TrainingJob"))


def retry_training_job(
    scope: Scope,
    /,
    job_id: str,
    *,
    from_start: bool = False,
    idempotency_key: str | None = None,
) -> Call[TrainingJob]:
    """Make a new job that repeats a failed or cancelled one from its newest checkpoint.

    Its `start_step` says where it begins. One whose checkpoints have all expired is refused,
    unless it is wished FROM_START, which passes over checkpoints that are left, too.
    The key does for it what it does for a new job: sent twice, the call makes one.
    """
    return Call(
        "POST",
        f"{_job(scope, job_id)}/retry",
        one("training.jobs", "TrainingJob"),
        body=json.dumps({"from_start": True}).encode() if from_start else None,
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        repeatable=True,
    )


def list_training_job_logs(
    scope: Scope,
    /,
    job_id: str,
    *,
    after: int | None = None,
    level: str | None = None,
    since: datetime | None = None,
    tail: int | None = None,
    query: str | None = None,
) -> Call[LogEntries]:
    """A job's log, oldest line first.

    Args:
        scope: Where the job is.
        job_id: The job.
        after: Only lines behind the one with this cursor.
        level: The least level.
        since: Only lines from then on; a time without a zone is this machine's.
        tail: Only so many lines, the last ones.
        query: Only lines that hold these words.
    """
    start = None if since is None else since.astimezone(UTC).isoformat()
    params = given(after=after, level=level, since=start, tail=tail, query=query)
    return get(f"{_job(scope, job_id)}/logs", one("training.jobs", "LogEntries"), params)


def training_job_events(scope: Scope, /, job_id: str, *, after: int = 0) -> Call[bytes]:
    """What happens to a job, as a stream; `watch_training_job` reads it."""
    call = get(f"{_job(scope, job_id)}/events", bytes, {"after": after})
    return replace(call, headers={"Accept": "text/event-stream"})


def get_training_job_artifacts(scope: Scope, /, job_id: str) -> Call[Artifacts]:
    """What a job has made, by name."""
    return get(f"{_job(scope, job_id)}/artifacts", one("training.jobs", "Artifacts"))


def list_training_job_files(scope: Scope, /, job_id: str) -> Call[JobFiles]:
    """The files that a job has stored, its adapter among them."""
    return get(f"{_job(scope, job_id)}/files", one("training.jobs", "JobFiles"))


def training_job_file(scope: Scope, /, job_id: str, path: str) -> Call[bytes]:
    """The bytes of one file of a job."""
    return get(f"{_job(scope, job_id)}/files/{quote(path)}", bytes)


def list_training_job_checkpoints(scope: Scope, /, job_id: str) -> Call[CheckpointList]:
    """What a job has saved on the engine, oldest first."""
    path = f"{_job(scope, job_id)}/checkpoints"
    return get(path, one("training.checkpoints", "CheckpointList"))


def export_training_job_checkpoint(
    scope: Scope, /, job_id: str, checkpoint: str
) -> Call[CheckpointAdapter]:
    """A checkpoint as an adapter among the job's files, by name, by path, or `best`.

    The engine makes it the first time, which may take minutes.
    """
    request = type_of("training.checkpoints", "AdapterRequest")(checkpoint=checkpoint)
    return Call(
        "POST",
        f"{_job(scope, job_id)}/checkpoints/adapter",
        one("training.checkpoints", "CheckpointAdapter"),
        body=body_of(request),
        repeatable=True,
        seconds=EXPORT_SECONDS,
    )


def chat_with_training_job(scope: Scope, /, job_id: str, request: ChatRequest) -> Call[ChatAnswer]:
    """The next message of a conversation, sampled from the job's weights."""
    return Call(
        "POST",
        f"{_job(scope, job_id)}/chat",
        one("training.chat", "ChatAnswer"),
        body=body_of(request),
        seconds=CHAT_SECONDS,
    )


def _jobs(scope: Scope) -> str:
    return f"{workspace(scope)}/training/jobs"


def _job(scope: Scope, job_id: str) -> str:
    return f"{_jobs(scope)}/{segment(job_id)}"
