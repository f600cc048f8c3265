"""Who may reach a job: people by their role, and the sandbox that trains it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Request

from dreadnode_api.auth.callers import Authenticator, Caller, Role, need
from dreadnode_api.auth.deps import AnyCaller, OrgSlug, WorkspaceSlug, check_org, find_workspace
from dreadnode_api.errors import Forbidden, Unauthenticated
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.training.preflight import Preflight

JobId = Annotated[str, Path(max_length=64, pattern=SLUG, description="Id of the job")]


@dataclass(frozen=True, slots=True)
class JobPlace:
    """A caller at a job, which need not exist."""

    caller: Caller
    org_id: str
    workspace_id: str
    job_id: str


async def _place(caller: Caller, org: str, ws: str, job_id: str, database: InDatabase) -> JobPlace:
    check_org(caller, org)
    workspace = await find_workspace(database, caller.org_id, ws)
    if caller.job_id is not None and (caller.job_id, caller.workspace_id) != (
        job_id,
        workspace.id,
    ):
        raise Forbidden("The key of a job opens that one job and nothing else")
    return JobPlace(caller, caller.org_id, workspace.id, job_id)


async def job_reader(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, caller: AnyCaller, database: InDatabase
) -> JobPlace:
    """Return a reader of the organization, or the job's own sandbox."""
    place = await _place(caller, org, ws, job_id, database)
    if caller.job_id is None:
        need(caller, Role.READER)
    return place


async def job_sandbox(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, caller: AnyCaller, database: InDatabase
) -> JobPlace:
    """Return the job's own sandbox.

    Raises:
        Forbidden: the key is a user's.
    """
    if caller.job_id is None:
        raise Forbidden("Only the sandbox of this job may do this, with the key made for it")
    return await _place(caller, org, ws, job_id, database)


async def last_words(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, request: Request, database: InDatabase
) -> JobPlace:
    """Return the job's own sandbox, also for a little while after the job has ended.

    A sandbox that lost the answer to its last event says it again, and must be understood.
    """
    authenticator: Authenticator = request.app.state.authenticator
    caller = await authenticator.caller(request.headers)
    if caller.job_id is None:
        raise Forbidden("Only the sandbox of this job may do this, with the key made for it")
    if caller.ended and caller.job_id != job_id:
        raise Unauthenticated("The job of this key has ended, and the key with it")
    return await _place(caller, org, ws, job_id, database)


def preflight(request: Request) -> Preflight:
    """Return what runs the checks of data."""
    found: Preflight = request.app.state.preflight
    return found


JobReader = Annotated[JobPlace, Depends(job_reader)]
JobSandbox = Annotated[JobPlace, Depends(job_sandbox)]
LastWords = Annotated[JobPlace, Depends(last_words)]
InPreflight = Annotated[Preflight, Depends(preflight)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same body gives back the first job",
    ),
]
