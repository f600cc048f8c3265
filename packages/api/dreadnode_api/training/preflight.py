"""The check of a job's data in a short-lived process of the runtime, never in the API's own."""

import asyncio
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dreadnode_api.errors import Invalid
from dreadnode_api.runtime_processes import environment as processes
from dreadnode_api.runtime_processes.confined import Said, ask
from dreadnode_api.settings import Settings


class Report(BaseModel):
    """What the data holds."""

    model_config = ConfigDict(extra="allow", frozen=True)

    rows: int
    usable: int
    dropped: dict[str, int] = {}
    tokens: int
    truncated: int = 0


class CheckFailed(Exception):
    """The checking process did not do its work, which is our bug and a 500."""


class Preflight:
    """Runs checks, a bounded number at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(settings.preflight_at_once)

    async def check(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the runtime's report on the data of a job that does not exist yet.

        Raises:
            Invalid: the data cannot be trained on; the runtime says why in one sentence.
            CheckFailed: the process failed, or answered what cannot be read.
        """
        async with self._room:
            said = await self._run(json.dumps(question).encode())
        if said.code != 0:
            raise CheckFailed(f"the check ended with {said.code}: {said.complaint[-2000:]!r}")
        try:
            answer = json.loads(said.output)
            if answer["ok"] is False:
                raise Invalid(str(answer["error"]), *(answer.get("loc") or ["config"]))
            return Report.model_validate(answer).model_dump(exclude={"ok"})
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise CheckFailed(f"the check answered {said.output[:2000]!r}") from error

    async def _run(self, question: bytes) -> Said:
        cpu_seconds = math.ceil(self._settings.preflight_timeout) * (os.cpu_count() or 1)
        with tempfile.TemporaryDirectory(prefix="preflight-") as folder:
            try:
                return await ask(
                    [*self._settings.runtime_command, "check"],
                    question,
                    folder=Path(folder),
                    environment=processes.clean_environment(self._settings, Path(folder)),
                    limits=processes.limits(self._settings) | {"cpu_seconds": cpu_seconds},
                    seconds=self._settings.preflight_timeout,
                )
            except TimeoutError:
                raise Invalid(
                    f"Checking the data took longer than {self._settings.preflight_timeout:.0f} "
                    "seconds; train on a smaller dataset, or raise "
                    "`DREADNODE_PREFLIGHT_TIMEOUT` on the server",
                    "config",
                    "dataset_ref",
                ) from None
