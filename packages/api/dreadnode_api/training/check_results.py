"""Stored results of checks, so that a second job on the same data is not checked again."""

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import Database
from dreadnode_api.models.checks import StoredCheck
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import CheckResult


async def load(session: AsyncSession, request: CheckRequest) -> CheckResult | None:
    """Return the stored result of a check, if there is one."""
    row = await session.get(StoredCheck, request.key)
    return None if row is None else CheckResult(row.report)


async def store(database: Database, request: CheckRequest, result: CheckResult) -> None:
    """Store the report of a check; an error is not stored, because its cause may be removed."""
    if result.report is None or not result.is_stable:
        return
    async with database.writing() as session:
        await session.merge(
            StoredCheck(key=request.key, org_id=request.org_id, report=result.report)
        )
