"""Dependencies of the routes of a job: users by their role, and the job's own sandbox."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from dreadnode_api.auth.callers import Authenticator, Caller, Role, need
from dreadnode_api.auth.deps import AnyCaller, OrgSlug, WorkspaceSlug, check_org, find_workspace
from dreadnode_api.errors import Forbidden, Unauthenticated
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.patterns import SLUG

JobId = Annotated[str, Path(max_length=64, pattern=SLUG, description="Id of the job")]


@dataclass(frozen=True, slots=True)
class JobScope:
    """A caller and the job of its request, which need not exist."""

    caller: Caller
    org_id: str
    workspace_id: str
    job_id: str


async def _scope(caller: Caller, org: str, ws: str, job_id: str, database: InDatabase) -> JobScope:
    check_org(caller, org)
    workspace = await find_workspace(database, caller.org_id, ws)
    if caller.job_id is not None and (caller.job_id, caller.workspace_id) != (
        job_id,
        workspace.id,
    ):
        raise Forbidden("The token of a job gives access to that job only")
    return JobScope(caller, caller.org_id, workspace.id, job_id)


async def job_reader(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, caller: AnyCaller, database: InDatabase
) -> JobScope:
    """Return a reader of the organization, or the job's own sandbox."""
    scope = await _scope(caller, org, ws, job_id, database)
    if caller.job_id is None:
        need(caller, Role.READER)
    return scope


async def job_sandbox(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, caller: AnyCaller, database: InDatabase
) -> JobScope:
    """Return the job's own sandbox.

    Raises:
        Forbidden: the token belongs to a user.
    """
    if caller.job_id is None:
        raise Forbidden("Only the sandbox of this job may call this, with the token of the job")
    return await _scope(caller, org, ws, job_id, database)


async def reporting_sandbox(
    org: OrgSlug, ws: WorkspaceSlug, job_id: JobId, request: Request, database: InDatabase
) -> JobScope:
    """Return the job's own sandbox, also for a short time after the job has ended.

    A sandbox repeats its last event when it gets no response, and then needs one.
    """
    authenticator: Authenticator = request.app.state.authenticator
    caller = await authenticator.caller(request.headers)
    if caller.job_id is None:
        raise Forbidden("Only the sandbox of this job may call this, with the token of the job")
    if caller.ended and caller.job_id != job_id:
        raise Unauthenticated("The job of this token has ended, so the token is no longer valid")
    return await _scope(caller, org, ws, job_id, database)


JobReader = Annotated[JobScope, Depends(job_reader)]
JobSandbox = Annotated[JobScope, Depends(job_sandbox)]
ReportingSandbox = Annotated[JobScope, Depends(reporting_sandbox)]
