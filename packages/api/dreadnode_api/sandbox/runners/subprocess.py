"""Runs sandboxes as processes on this machine, each under its own supervisor."""

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
from pathlib import Path
from typing import Any

from anyio import to_thread

from dreadnode_api.sandbox import supervisor
from dreadnode_api.sandbox.process_tree import PROC, identity, send_signal
from dreadnode_api.sandbox.runner import USAGE_FILE, Exited, Lost, Running, Sandbox, State
from dreadnode_api.settings import Settings

START_SECONDS = 30.0
TAIL_BYTES = 64 * 1024
# Processes may start others while they are killed, so the search is repeated.
KILL_PASSES = 100


class SubprocessRunner:
    """Starts a supervisor for each sandbox; its whole state is in the sandbox's folder.

    Args:
        folder: the parent of all sandbox folders, `ID/ATTEMPT`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Only supervisors that this process started must be reaped by it.
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def _sandbox_folder(self, job_id: str, attempt: int) -> Path:
        return self._folder / job_id / str(attempt)

    async def start(self, sandbox: Sandbox) -> None:
        """Start `sandbox`, unless it was started before.

        Raises:
            OSError: the sandbox cannot be started, for example because the disk is full.
            TimeoutError: its supervisor does not start in time.
        """
        folder = self._sandbox_folder(sandbox.job_id, sandbox.attempt)
        if (folder / "supervisor.json").exists():
            return
        child = await to_thread.run_sync(self._launch, folder, sandbox)
        async with asyncio.timeout(START_SECONDS):
            while not (folder / "supervisor.json").exists():
                # In this order, because an ended supervisor may have written the file just before.
                ended = child.poll()
                if ended is not None and not (folder / "supervisor.json").exists():
                    raise OSError(
                        f"the supervisor ended with code {ended}; see {folder}/supervisor.log"
                    )
                await asyncio.sleep(0.01)

    def _launch(self, folder: Path, sandbox: Sandbox) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "heartbeat").touch()
        home = str(folder / "work")
        launch_spec = {
            "command": list(sandbox.command),
            "environment": {**sandbox.environment, "HOME": home, "TMPDIR": home},
            "limits": dict(sandbox.limits),
            "stop_grace": sandbox.stop_grace,
            "orphan_seconds": sandbox.orphan_seconds,
        }
        with (folder / "supervisor.log").open("ab") as supervisor_log:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=supervisor_log,
                stderr=supervisor_log,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", ""), "LANG": os.environ.get("LANG", "C.UTF-8")},
                start_new_session=True,
            )
        self._children[child.pid] = child
        if child.stdin is not None:
            # Through a pipe, because the tokens must not be in a file or in the arguments.
            with child.stdin as pipe:
                pipe.write(json.dumps(launch_spec).encode())
        return child

    async def state(self, job_id: str, attempt: int) -> State:
        """Return the state of a sandbox, which this process or an earlier one started."""
        return await to_thread.run_sync(self._state, self._sandbox_folder(job_id, attempt))

    def _state(self, folder: Path) -> State:
        self._reap()
        known = _read(folder / "supervisor.json")
        if known is None:
            if not _block_start(folder):
                return Running()
            # It may have started, and even ended, in between.
            known = _read(folder / "supervisor.json") or {}
        if _is_alive(known):
            return Running()
        # The supervisor writes `exit.json` before it ends, so it is read only now.
        ended = _read(folder / "exit.json")
        if ended is not None:
            return Exited(int(ended["code"]), ended.get("reason"))
        sandbox = _read(folder / "sandbox.json")
        if sandbox is not None and _is_alive(sandbox):
            send_signal(-int(sandbox["pid"]), signal.SIGKILL)
        _kill_leftovers(folder)
        return Lost()

    async def heartbeat(self, job_id: str, attempt: int) -> None:
        """Report to a sandbox that a dispatcher still owns it."""
        # Without a folder it has not started yet, or it started on another machine.
        with contextlib.suppress(FileNotFoundError):
            (self._sandbox_folder(job_id, attempt) / "heartbeat").touch()

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""
        self._signal_supervisor(job_id, attempt, signal.SIGTERM)

    async def kill(self, job_id: str, attempt: int) -> None:
        """Kill a sandbox with everything it started."""
        self._signal_supervisor(job_id, attempt, signal.SIGQUIT)

    def _signal_supervisor(self, job_id: str, attempt: int, number: int) -> None:
        known = _read(self._sandbox_folder(job_id, attempt) / "supervisor.json")
        if known is not None and _is_alive(known):
            send_signal(int(known["pid"]), number)

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that a sandbox printed."""
        return await to_thread.run_sync(_tail, self._sandbox_folder(job_id, attempt), lines)

    async def usage(self, job_id: str, attempt: int) -> object:
        """Return the token counts that a sandbox left, None if it left none."""
        path = self._sandbox_folder(job_id, attempt) / "work" / USAGE_FILE
        return await to_thread.run_sync(_read, path)

    async def clean(self, job_id: str, attempt: int) -> None:
        """Remove the working directory of a sandbox that has ended; its output stays."""
        work = self._sandbox_folder(job_id, attempt) / "work"
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


def _block_start(folder: Path) -> bool:
    """Stop a supervisor that has not started from ever starting; False if it starts right now.

    Its dispatcher may be dead or only slow. Without this, the supervisor could start its sandbox
    while the next attempt is running.

    Raises:
        OSError: the block cannot be written, so the state of the attempt is unknown.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not (folder / "supervisor.json").exists():
            supervisor.atomic_write(folder / "supervisor.json", {"pid": 0, "identity": None})
    return True


def _is_alive(known: dict[str, Any]) -> bool:
    return known.get("identity") is not None and (identity(int(known["pid"])) == known["identity"])


def _kill_leftovers(folder: Path) -> None:
    """Kill what a sandbox has started, when its supervisor was killed before it could.

    Only the home folder in their environment still shows that they belong to the sandbox.
    """
    home = f"={folder / 'work'}".encode()
    for _ in range(KILL_PASSES):
        left = [
            int(path.parent.name) for path in PROC.glob("[0-9]*/environ") if _has_value(path, home)
        ]
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.01)


def _has_value(environ: Path, value: bytes) -> bool:
    try:
        return any(each.endswith(value) for each in environ.read_bytes().split(b"\0"))
    except OSError:
        return False  # It has ended, or belongs to another user.


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


def create(settings: Settings) -> SubprocessRunner:
    """Return the runner for this machine."""
    return SubprocessRunner(settings.data_dir / "jobs")
