"""A runtime process that answers one request of a user and may call the engine for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_api.runtime_processes.child import run
from dreadnode_api.runtime_processes.environment import engine_environment, job_limits, refusal
from dreadnode_api.settings import Settings


class CommandFailed(Exception):
    """The process failed without a reason of its own, which is a bug and a 500."""


async def run_command(
    settings: Settings, command: str, request: Mapping[str, Any], lineage: str, folder: Path
) -> dict[str, Any]:
    """Return the response of `python -m dreadnode_runtime COMMAND` to REQUEST.

    Args:
        settings: the server's settings.
        command: the runtime's command.
        request: what the process reads.
        lineage: whose weights on the engine it may read and write.
        folder: its working folder, for files.

    Raises:
        Invalid: the engine or the runtime refuses the request.
        BadGateway: the engine does not answer.
        TimeoutError: it takes too long.
        CommandFailed: the process failed.
    """
    size = min(settings.max_file_bytes, settings.job_disk_bytes)
    result = await run(
        [*settings.runtime_command, command],
        json.dumps(request).encode(),
        folder=folder,
        environment=engine_environment(settings, lineage, folder),
        limits=job_limits(settings) | {"disk_bytes": size},
        seconds=settings.export_timeout,
    )
    try:
        response: dict[str, Any] = json.loads(result.stdout)
        done = response["ok"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"`{command}` ended with {result.reason or result.code}: {result.stderr[-2000:]!r}"
        ) from error
    if done is not True:
        raise refusal(response)
    return response
