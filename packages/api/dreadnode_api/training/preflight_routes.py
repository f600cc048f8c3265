"""The route that reports on a job without creating it."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request

from dreadnode_api.auth.deps import Member
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.training import preflight_report
from dreadnode_api.training.deps import InServices
from dreadnode_api.training.preflight_schemas import PreflightReport
from dreadnode_api.training.schemas import JobRequest

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/preflight", responses=ERRORS, tags=["Training jobs"]
)


@router.post("")
async def check_training_job(
    scope: Member,
    request: Annotated[JobRequest, Body()],
    connection: Request,
    services: InServices,
    show: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="Number of a row to return as text")
    ] = None,
    compare: Annotated[
        bool, Query(description="Price the job on every model of the catalog that can run it")
    ] = False,
) -> PreflightReport:
    """Check a job as its creation does, and report its data, its warnings and its price.

    Nothing is created and nothing is charged. What would refuse the job refuses this request with
    the same message. A large dataset takes minutes; the check ends when the client disconnects.
    """
    work = preflight_report.report(scope, request, services=services, show=show, compared=compare)
    return await while_connected(connection, work)
