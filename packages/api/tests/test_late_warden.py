"""An attempt that was given up never starts, however late its warden comes up."""

import asyncio
import fcntl
import os
from pathlib import Path

from app.runners.sandbox import Limits, Lost, Running, Sandbox
from app.runners.subprocess import SubprocessRunner

LIMITS = Limits(
    memory_bytes=2**31,
    cpu_seconds=60,
    wall_seconds=60,
    open_files=256,
    processes=64,
    disk_bytes=2**30,
    output_bytes=2**20,
)


async def test_a_warden_that_comes_up_after_its_attempt_was_given_up_starts_nothing(
    tmp_path: Path,
) -> None:
    runner = SubprocessRunner(tmp_path)
    trace = tmp_path / "it ran"
    environment = {"PATH": os.environ["PATH"]}
    late = Sandbox("job", 1, ("touch", str(trace)), environment, LIMITS, 2.0, 60.0)
    other = Sandbox("job", 2, ("touch", str(trace)), environment, LIMITS, 2.0, 60.0)

    given_up = await runner.state("job", 1)
    await runner.start(late)
    runner._launch(tmp_path / "job" / "1", late).wait(20)

    assert given_up == await runner.state("job", 1) == Lost()
    assert not trace.exists()
    await runner.start(other)
    async with asyncio.timeout(20):
        while await runner.state("job", 2) == Running():
            await asyncio.sleep(0.02)
    assert trace.exists()


async def test_an_attempt_whose_warden_is_just_coming_up_is_not_given_up(tmp_path: Path) -> None:
    runner = SubprocessRunner(tmp_path)
    (tmp_path / "job" / "1").mkdir(parents=True)
    with (tmp_path / "job" / "1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        seen = await runner.state("job", 1)

    assert seen == Running()
    assert await runner.state("job", 1) == Lost()
