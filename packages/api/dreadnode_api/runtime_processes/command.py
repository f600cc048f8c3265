"""A runtime process that answers one request of a user."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_api.runtime_processes.child import run
from dreadnode_api.runtime_processes.environment import refusal
from dreadnode_api.settings import Settings


class CommandFailed(Exception):
    """The process failed without a reason of its own, which is a bug and a 500."""


async def run_command(
    settings: Settings,
    command: str,
    request: Mapping[str, Any],
    *,
    folder: Path,
    environment: Mapping[str, str],
    limits: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """Return the response of `python -m dreadnode_runtime COMMAND` to REQUEST.

    The other arguments are those of `run`.

    Raises:
        Invalid: the engine or the runtime refuses the request.
        BadGateway: the engine does not answer.
        TimeoutError: it takes too long.
        CommandFailed: the process failed.
    """
    result = await run(
        [*settings.runtime_command, command],
        json.dumps(request).encode(),
        folder=folder,
        environment=environment,
        limits=limits,
        seconds=seconds,
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
