"""Supervises one process and everything it starts, in a process of its own.

A sandbox: `python -I -S supervisor.py FOLDER < launch-spec.json`. The supervisor starts the
sandbox, enforces its limits, keeps a bounded part of its output, ends it with everything it
started, and records how it ended. A sandbox survives its dispatcher, and the next dispatcher reads
from FOLDER all that the first one knew:

    supervisor.json  this process, written before the sandbox starts
    sandbox.json     the sandbox, which leads its own process group
    lock             held while this process lives, so that an attempt never runs twice
    heartbeat        touched by the dispatcher that owns the job
    output.log       the newest part of the output; output.1.log holds the part before it
    exit.json        how the sandbox ended, written last

SIGTERM asks the sandbox to stop and kills it after its grace period; SIGQUIT kills it immediately.

Only a small part of the standard library is imported, because every job pays for this process.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:
    # Run as a file, without site-packages.
    sys.path.append(str(Path(__file__).parents[2]))

from dreadnode_api.sandbox.limits import apply_limits
from dreadnode_api.sandbox.output import Output
from dreadnode_api.sandbox.process_tree import (
    become_subreaper,
    end_tree,
    identity,
    measure,
    send_signal,
)
from dreadnode_api.sandbox.signals import ArrivedSignals

TICK = 0.25
MEASURE_EVERY = 1.0
DISK_EVERY = 5.0


def atomic_write(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that is either missing or complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Supervisor:
    """Supervises one sandbox from its start to its end."""

    def __init__(self, folder: Path, launch_spec: dict[str, Any]) -> None:
        self.folder = folder
        self.launch_spec = launch_spec
        self.limits: dict[str, int] = launch_spec["limits"]
        self.work = folder / "work"
        self.output = Output(folder, self.limits["output_bytes"])
        self.reason: str | None = None
        self.deadline: float | None = None
        self.signals = ArrivedSignals(signal.SIGTERM, signal.SIGQUIT)
        self.peak = 0
        self.process: subprocess.Popen[bytes]

    def run(self) -> None:
        """Start the sandbox, watch it, end it, and record how it ended."""
        self.work.mkdir(exist_ok=True)
        started = time.monotonic()
        try:
            self.process = self._start()
        except OSError as error:
            self.output.write(f"the sandbox cannot be started: {error}\n".encode())
            atomic_write(self.folder / "exit.json", {"code": 127, "reason": None})
            return
        pid = self.process.pid
        atomic_write(self.folder / "sandbox.json", {"pid": pid, "identity": identity(pid)})
        self._watch(started)
        end_tree(self.process)
        self._drain()
        full = _bytes_under(self.work) >= self.limits["disk_bytes"]
        code = self.process.returncode
        if self.reason is None and code == -signal.SIGXCPU:
            self.reason = "cpu_time"
        if self.reason is None and code and full:
            self.reason = "disk"  # The system refused a write before the next measurement.
        seconds = round(time.monotonic() - started, 3)
        outcome = {"code": code, "reason": self.reason, "seconds": seconds, "peak_bytes": self.peak}
        atomic_write(self.folder / "exit.json", outcome)

    def _start(self) -> subprocess.Popen[bytes]:
        become_subreaper()
        # This process has one thread, so running Python after the fork is safe.
        return subprocess.Popen(
            self.launch_spec["command"],
            cwd=self.work,
            env=self.launch_spec["environment"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(apply_limits, self.limits, os.getpid()),
        )

    def _watch(self, started: float) -> None:
        heartbeat, heartbeat_at = self._heartbeat(), started
        next_measure = next_disk = started
        while self.process.poll() is None:
            self._pump(TICK)
            now = time.monotonic()
            if signal.SIGQUIT in self.signals:
                self.kill_now()
            elif signal.SIGTERM in self.signals:
                self.ask_to_stop()
            if (touched := self._heartbeat()) != heartbeat:
                heartbeat, heartbeat_at = touched, now
            if now >= next_disk:
                next_disk = now + DISK_EVERY
                if _bytes_under(self.work) > self.limits["disk_bytes"]:
                    self._exceed("disk")
            if now >= next_measure:
                next_measure = now + MEASURE_EVERY
                used, limit = measure(self.limits)
                self.peak = max(self.peak, used)
                if limit is not None:
                    self._exceed(limit)
            if now - started > self.limits["wall_seconds"]:
                self._exceed("wall_time")
            if now - heartbeat_at > self.launch_spec["orphan_seconds"]:
                self.ask_to_stop("orphaned")
            if self.deadline is not None and now > self.deadline:
                self.kill_now()

    def _exceed(self, limit: str) -> None:
        self.reason = self.reason or limit
        send_signal(-self.process.pid, signal.SIGKILL)

    def ask_to_stop(self, reason: str = "stopped") -> None:
        """Ask the sandbox once to save and stop; the grace period starts now."""
        if self.deadline is None:
            self.reason = self.reason or reason
            self.deadline = time.monotonic() + self.launch_spec["stop_grace"]
            send_signal(self.process.pid, signal.SIGTERM)

    def kill_now(self) -> None:
        """Kill the sandbox."""
        self.reason = "killed" if self.reason in (None, "stopped") else self.reason
        send_signal(-self.process.pid, signal.SIGKILL)

    def _heartbeat(self) -> float:
        try:
            return (self.folder / "heartbeat").stat().st_mtime
        except OSError:
            return 0.0

    def _pump(self, seconds: float) -> bool:
        """Copy what the sandbox printed to the output; return whether there was something.

        Waits for output or a signal, such as that of the sandbox's end, for SECONDS at most.
        """
        pipe = self.process.stdout
        # A sandbox may close its output and still run.
        watched = [] if pipe is None or pipe.closed else [pipe.fileno()]
        if not self.signals.wait(seconds, *watched) or pipe is None:
            return False
        data = os.read(pipe.fileno(), 65536)
        if not data:
            pipe.close()
            return False
        self.output.write(data)
        return True

    def _drain(self) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until and self._pump(0):
            pass


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).lstat().st_blocks * 512
    return total


def main() -> int:
    """Supervise the sandbox of the launch spec on stdin, in the folder that the argument names."""
    folder = Path(sys.argv[1])
    launch_spec = json.load(sys.stdin)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 3  # Another supervisor runs this attempt.
        if (folder / "supervisor.json").exists():
            return 3  # The attempt ran before, and an attempt runs once.
        supervisor = Supervisor(folder, launch_spec)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        own = os.getpid()
        atomic_write(folder / "supervisor.json", {"pid": own, "identity": identity(own)})
        supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
