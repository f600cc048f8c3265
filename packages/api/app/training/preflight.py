"""The check of a job's data in a short-lived process of the runtime, never in the API's own."""

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import Invalid
from app.runners import warden
from app.settings import Settings

MAX_ANSWER_BYTES = 1024 * 1024


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


def clean_environment(settings: Settings, home: Path) -> dict[str, str]:
    """Return the environment that any process of the runtime begins with: no key, no token."""
    given = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": settings.hf_home,
        "HF_HUB_OFFLINE": settings.hf_hub_offline,
        "DREADNODE_ALLOW_CUSTOM_CODE": "1" if settings.allow_custom_code else "",
    }
    return {name: value for name, value in given.items() if value}


END_SECONDS = 5.0
"""How long a killed check may hold its pipes, should a child of its have escaped."""


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
            code, output, complaint = await self._run(json.dumps(question).encode())
        if code != 0:
            raise CheckFailed(f"the check ended with {code}: {complaint[-2000:]!r}")
        try:
            answer = json.loads(output)
            if answer["ok"] is False:
                raise Invalid(str(answer["error"]), *(answer.get("loc") or ["config"]))
            return Report.model_validate(answer).model_dump(exclude={"ok"})
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise CheckFailed(f"the check answered {output[:2000]!r}") from error

    async def _run(self, question: bytes) -> tuple[int, bytes, bytes]:
        with tempfile.TemporaryDirectory(prefix="preflight-") as folder:
            process = await asyncio.create_subprocess_exec(
                *self._confined(),
                *self._settings.runtime_command,
                "check",
                cwd=folder,
                env=clean_environment(self._settings, Path(folder)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(self._settings.preflight_timeout):
                    output, complaint = await _exchange(process, question)
            except TimeoutError:
                raise Invalid(
                    f"Checking the data took longer than {self._settings.preflight_timeout:.0f} "
                    "seconds; train on a smaller dataset, or raise "
                    "`DREADNODE_PREFLIGHT_TIMEOUT` on the server",
                    "config",
                    "dataset_ref",
                ) from None
            finally:
                await _end(process)
        return process.returncode or 0, output, complaint

    def _confined(self) -> list[str]:
        """Return what goes before a command so that it keeps to a job's limits and dies with us."""
        limits = {
            "memory_bytes": self._settings.job_memory_bytes,
            "cpu_seconds": math.ceil(self._settings.preflight_timeout) * (os.cpu_count() or 1),
            "open_files": self._settings.job_open_files,
            "disk_bytes": self._settings.job_disk_bytes,
        }
        launcher = [sys.executable, "-I", "-S", warden.__file__, "--confine"]
        return [*launcher, json.dumps(limits), str(os.getpid())]


async def _exchange(process: asyncio.subprocess.Process, question: bytes) -> tuple[bytes, bytes]:
    """Ask, and return the answer and the complaints, of both no more than a bound."""
    ask, answer, complaint = process.stdin, process.stdout, process.stderr
    if ask is None or answer is None or complaint is None:
        raise CheckFailed("the check has no pipes")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ask.write(question)
        await ask.drain()
    ask.close()
    taken = await asyncio.gather(_taken(answer), _taken(complaint), process.wait())
    return taken[0], taken[1]


async def _taken(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: max(0, MAX_ANSWER_BYTES - len(kept))]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing of the check behind, whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # `wait` returns when the pipes are at their end, and a full one gets there by being read.
    left = [_taken(stream) for stream in (process.stdout, process.stderr) if stream is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*left, process.wait())
