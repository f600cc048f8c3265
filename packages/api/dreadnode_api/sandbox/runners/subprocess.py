"""Sandboxes as processes on this machine, each under a warden of its own."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyio import to_thread

from dreadnode_api.sandbox import supervisor as warden
from dreadnode_api.sandbox.runner import Exited, Lost, Running, Sandbox, State
from dreadnode_api.settings import Settings

START_SECONDS = 30.0
TAIL_BYTES = 64 * 1024
# How often to look for processes that others start while they are being killed.
PASSES = 100


def create(settings: Settings) -> "SubprocessRunner":
    """Return the runner for this machine."""
    return SubprocessRunner(settings.data_dir / "jobs")


class SubprocessRunner:
    """Starts a warden for each sandbox; all it knows lies in the sandbox's folder.

    Args:
        folder: where jobs have their folders, `ID/ATTEMPT`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Our own children, which must be reaped; adopted wardens are the system's.
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def _of(self, job_id: str, attempt: int) -> Path:
        return self._folder / job_id / str(attempt)

    async def start(self, sandbox: Sandbox) -> None:
        """Start `sandbox`, unless it was started already.

        Raises:
            OSError: it cannot be started here, as when the disk is full.
            TimeoutError: its warden does not come up.
        """
        folder = self._of(sandbox.job_id, sandbox.attempt)
        if (folder / "warden.json").exists():
            return
        child = await to_thread.run_sync(self._launch, folder, sandbox)
        async with asyncio.timeout(START_SECONDS):
            while not (folder / "warden.json").exists():
                # In this order: one that has ended may have written it just before.
                ended = child.poll()
                if ended is not None and not (folder / "warden.json").exists():
                    raise OSError(f"its warden ended with code {ended}; see {folder}/warden.log")
                await asyncio.sleep(0.01)

    def _launch(self, folder: Path, sandbox: Sandbox) -> "subprocess.Popen[bytes]":
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "attended").touch()
        home = str(folder / "work")
        order = {
            "command": list(sandbox.command),
            "environment": {**sandbox.environment, "HOME": home, "TMPDIR": home},
            "limits": asdict(sandbox.limits),
            "stop_grace": sandbox.stop_grace,
            "orphan_seconds": sandbox.orphan_seconds,
        }
        with (folder / "warden.log").open("ab") as complaints:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", warden.__file__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=complaints,
                stderr=complaints,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", ""), "LANG": os.environ.get("LANG", "C.UTF-8")},
                start_new_session=True,
            )
        self._children[child.pid] = child
        if child.stdin is not None:
            # Through a pipe: the keys must not stand in a file or a list of arguments.
            with child.stdin as pipe:
                pipe.write(json.dumps(order).encode())
        return child

    async def state(self, job_id: str, attempt: int) -> State:
        """Look at a sandbox, started by this process or by an earlier one."""
        return await to_thread.run_sync(self._state, self._of(job_id, attempt))

    def _state(self, folder: Path) -> State:
        self._reap()
        known = _read(folder / "warden.json")
        if known is None:
            if not _barred(folder):
                return Running()
            # It may have come up, and even ended, in between.
            known = _read(folder / "warden.json") or {}
        if _lives(known):
            return Running()
        # It writes `exit.json` before it goes, so look for that only now.
        ended = _read(folder / "exit.json")
        if ended is not None:
            return Exited(int(ended["code"]), ended.get("reason"))
        sandbox = _read(folder / "sandbox.json")
        if sandbox is not None and _lives(sandbox):
            _signal(-int(sandbox["pid"]), signal.SIGKILL)
        _end_left(folder)
        return Lost()

    async def attend(self, job_id: str, attempt: int) -> None:
        """Say that somebody still looks after a sandbox."""
        # Without a folder it is not started yet, or was started on another machine.
        with contextlib.suppress(FileNotFoundError):
            (self._of(job_id, attempt) / "attended").touch()

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""
        self._tell_warden(job_id, attempt, signal.SIGTERM)

    async def kill(self, job_id: str, attempt: int) -> None:
        """Kill a sandbox with all that it started."""
        self._tell_warden(job_id, attempt, signal.SIGQUIT)

    def _tell_warden(self, job_id: str, attempt: int, number: int) -> None:
        known = _read(self._of(job_id, attempt) / "warden.json")
        if known is not None and _lives(known):
            _signal(int(known["pid"]), number)

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that a sandbox printed."""
        return await to_thread.run_sync(_tail, self._of(job_id, attempt), lines)

    async def clean(self, job_id: str, attempt: int) -> None:
        """Remove the working directory of a sandbox that has ended; its output stays."""
        work = self._of(job_id, attempt) / "work"
        await to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def _barred(folder: Path) -> bool:
    """Keep a warden that has not come up from ever doing so; False if it does at this moment.

    Its dispatcher may have been killed, or only slow: without this it could start its sandbox when
    the next attempt runs already.

    Raises:
        OSError: that cannot be written down, so nothing is known of the attempt yet.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not (folder / "warden.json").exists():
            warden.write_whole(folder / "warden.json", {"pid": 0, "identity": None})
    return True


def _lives(known: dict[str, Any]) -> bool:
    return known.get("identity") is not None and (
        warden.identity(int(known["pid"])) == known["identity"]
    )


def _end_left(folder: Path) -> None:
    """Kill what a sandbox has started and its warden, killed itself, could not end.

    Nothing ties these processes to the sandbox any more but the home that it handed on to them.
    """
    home = f"={folder / 'work'}".encode()
    for _ in range(PASSES):
        left = [
            int(path.parent.name)
            for path in warden.PROC.glob("[0-9]*/environ")
            if _holds(path, home)
        ]
        for pid in left:
            _signal(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.01)


def _holds(environ: Path, value: bytes) -> bool:
    try:
        return any(each.endswith(value) for each in environ.read_bytes().split(b"\0"))
    except OSError:
        return False  # It has ended, or is somebody else's.


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _tail(folder: Path, lines: int) -> list[str]:
    text = b""
    for name in ("output.1.log", "output.log"):
        try:
            with (folder / name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text += file.read()
        except FileNotFoundError:
            continue
    return text.decode("utf-8", "replace").replace("\0", "").splitlines()[-lines:]
