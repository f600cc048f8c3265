"""Sandboxes as processes: what the runner guarantees when a part of them is killed or late."""

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from dreadnode_api.sandbox.runner import Lost, Running, Sandbox
from dreadnode_api.sandbox.runners import subprocess

LIMITS = {
    "memory_bytes": 2**31,
    "cpu_seconds": 60,
    "wall_seconds": 60,
    "open_files": 256,
    "processes": 64,
    "disk_bytes": 2**30,
    "output_bytes": 2**20,
}
# A sandbox that has started two processes, one of which leads a session of its own.
FAMILY = """
import subprocess, sys, time
from pathlib import Path
for alone in (False, True):
    child = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(child, start_new_session=alone)
Path("ready").touch()
time.sleep(600)
"""


def living(folder: Path) -> list[int]:
    """Return the processes that work below FOLDER; one that has ended has no folder any more."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def test_a_killed_supervisors_sandbox_is_killed_and_reported_lost(
    tmp_path: Path,
) -> None:
    runner = subprocess.SubprocessRunner(tmp_path)
    command = (sys.executable, "-c", FAMILY)
    await runner.start(Sandbox("job", 1, command, {"PATH": os.environ["PATH"]}, LIMITS, 2.0, 60.0))
    async with asyncio.timeout(20):
        while not (tmp_path / "job/1/work/ready").exists():
            await asyncio.sleep(0.02)
    assert len(living(tmp_path / "job/1/work")) == 3

    supervisor = subprocess._read(tmp_path / "job/1/supervisor.json")
    assert supervisor is not None
    os.kill(int(supervisor["pid"]), signal.SIGKILL)

    async with asyncio.timeout(20):
        while not isinstance(await runner.state("job", 1), Lost):
            await asyncio.sleep(0.02)
        while living(tmp_path):
            await asyncio.sleep(0.02)


async def test_a_heartbeat_before_the_start_is_accepted(tmp_path: Path) -> None:
    runner = subprocess.SubprocessRunner(tmp_path)

    await runner.heartbeat("job", 1)

    assert not (tmp_path / "job").exists()


async def test_a_heartbeat_fails_when_the_folder_is_not_writable(
    tmp_path: Path,
) -> None:
    (tmp_path / "job").write_text("a file where a folder should be")
    runner = subprocess.SubprocessRunner(tmp_path)

    with pytest.raises(OSError, match="job"):
        await runner.heartbeat("job", 1)


async def test_a_supervisor_that_starts_after_its_attempt_was_abandoned_starts_nothing(
    tmp_path: Path,
) -> None:
    runner = subprocess.SubprocessRunner(tmp_path)
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


async def test_an_attempt_whose_supervisor_is_starting_is_not_abandoned(tmp_path: Path) -> None:
    runner = subprocess.SubprocessRunner(tmp_path)
    (tmp_path / "job" / "1").mkdir(parents=True)
    with (tmp_path / "job" / "1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        seen = await runner.state("job", 1)

    assert seen == Running()
    assert await runner.state("job", 1) == Lost()
