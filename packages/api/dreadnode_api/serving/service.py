"""Finds the weights that a request names, and the models that a caller can name."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import select

from dreadnode_api.auth.callers import Caller, Role, need
from dreadnode_api.auth.deps import UserCaller
from dreadnode_api.checkpoints.targets import Target, find_target
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.serving.model_process import Line
from dreadnode_api.serving.process_pool import ProcessPool

WEIGHTS_LISTED = 100
ListedModel = tuple[str, int, str]
"""The name of a model, when it was made (seconds since the epoch), and its owner."""
Lines = AsyncGenerator[Line, None]
"""Lines of a serving process; closing it cancels the request."""


@dataclass(frozen=True)
class ServedModels(ABC):
    """Serves requests of one caller."""

    engine: EngineClient
    pool: ProcessPool

    @abstractmethod
    async def find(self, model: str) -> Target:
        """Return the weights that MODEL names.

        Raises:
            ApiError: they do not exist or cannot be served.
        """

    @abstractmethod
    async def listed(self) -> list[ListedModel]:
        """Return the models that the caller can name: base models, then the newest weights."""

    async def base_models(self) -> list[ListedModel]:
        """Return the base models that the engine samples from."""
        known = await self.engine.capabilities()
        return [
            (model.model_name, 0, "base")
            for model in known.models.values()
            if model.sampleable is not False
        ]

    async def results(
        self, target: Target, requests: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the result of each of REQUESTS; the first failure cancels the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.pool.result(target, each)) for each in requests]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def opened(self, target: Target, request: Mapping[str, Any]) -> Lines:
        """Return the lines of a streamed REQUEST, once there is a first one.

        So a request that is refused gets a status and an error instead of a stream.
        """
        lines = self.pool.lines(target, request)
        try:
            first = await anext(lines)
        except BaseException:
            await lines.aclose()
            raise
        return _with_first(first, lines)


@dataclass(frozen=True)
class Models(ServedModels):
    """Serves the base models, and the weights of the caller's organization."""

    caller: Caller
    database: Database

    async def find(self, model: str) -> Target:
        """Return the weights that MODEL names, as `find_target` does."""
        known = await self.engine.capabilities()
        async with self.database.reading() as session:
            return await find_target(session, self.caller, known, model)

    async def listed(self) -> list[ListedModel]:
        """Return the base models of the engine, and the newest jobs that have weights."""
        ready = select(Checkpoint.job_id).where(Checkpoint.state == State.READY)
        statement = (
            select(Job)
            .where(Job.org_id == self.caller.org_id, Job.id.in_(ready))
            .order_by(Job.id.desc())
            .limit(WEIGHTS_LISTED)
        )
        bases = await self.base_models()
        async with self.database.reading() as session:
            jobs = (await session.scalars(statement)).all()
        return bases + [(job.id, int(job.created_at.timestamp()), "job") for job in jobs]


async def _with_first(first: Line, lines: Lines) -> Lines:
    async with aclosing(lines):
        yield first
        async for line in lines:
            yield line


def models_of(request: Request, caller: Caller) -> Models:
    """Return what serves the requests of CALLER."""
    state = request.app.state
    return Models(state.engine, state.serving, caller, state.database)


async def models(request: Request, caller: UserCaller) -> Models:
    """Return what serves the caller's requests."""
    return models_of(request, caller)


JobModels = Annotated[Models, Depends(models)]
InModels = Annotated[ServedModels, Depends(models)]


async def member_models(found: JobModels) -> ServedModels:
    """Return the same for a caller who may sample, which costs money.

    Raises:
        Forbidden: the caller is a reader.
    """
    need(found.caller, Role.MEMBER)
    return found


MemberModels = Annotated[ServedModels, Depends(member_models)]
