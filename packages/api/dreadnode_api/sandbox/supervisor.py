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
A child process: `python -I -S supervisor.py --child LIMITS PARENT COMMAND...`. The command shares
stdin, stdout and stderr with the supervisor, and its whole tree ends with the command, with PARENT,
or on SIGTERM. The exit code says how it ended; see `encode`.

Only a small part of the standard library is imported, because every job pays for this process.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK = 0.25
MEASURE_EVERY = 1.0
MEASURE_CHILD_EVERY = 0.1
MEASURE_SHARE = 0.01
DISK_EVERY = 5.0
KILL_SECONDS = 10.0
AUTOGROUP_ATTEMPTS = 40
PROC = Path("/proc")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

REASONS = (
    "memory", "cpu_time", "wall_time", "disk", "processes", "orphaned", "stopped", "killed",
)  # fmt: skip
_FIRST_REASON = 200
_FIRST_SIGNAL = 128


def encode(code: int, reason: str | None) -> int:
    """Return one exit code for how a process ended; codes below 128 are the process's own."""
    if reason is not None:
        return _FIRST_REASON + REASONS.index(reason)
    return _FIRST_SIGNAL - code if code < 0 else min(code, _FIRST_SIGNAL - 1)


def decode(code: int) -> tuple[int, str | None]:
    """Return the process's own code, or minus the signal that killed it, and the reason."""
    if _FIRST_REASON <= code < _FIRST_REASON + len(REASONS):
        return -signal.SIGKILL, REASONS[code - _FIRST_REASON]
    return (_FIRST_SIGNAL - code if code > _FIRST_SIGNAL else code), None


def identity(pid: int) -> str | None:
    """Return a string that identifies a process among all with its number; None if it has ended.

    It holds the boot and the process's start in ticks since then, which no clock change moves.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _identity_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended.
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _identity_without_proc(pid: int) -> str | None:
    if (PROC / "self").exists():
        return None
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def bind_to_parent(parent: int, number: int) -> None:
    """Have the kernel send signal `number` to this process when `parent` ends."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # The parent ended before the call above.


def apply_limits(limits: dict[str, int], parent: int) -> None:
    """Apply the limits that the kernel enforces, and end with `parent`."""
    bind_to_parent(parent, signal.SIGKILL)
    for kind, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"]),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (limit, limit))
    if niceness := limits.get("niceness", 0):
        lower_priority(niceness)


def lower_priority(niceness: int) -> None:
    """Let other processes run first.

    Where Linux groups processes by session, a niceness counts only among those of its session, so
    the group of this one gets it too.
    """
    os.nice(niceness)
    for _ in range(AUTOGROUP_ATTEMPTS):
        try:
            (PROC / "self/autogroup").write_text(str(niceness))
        except BlockingIOError:
            time.sleep(0.05)  # Linux takes ten such changes a second, of all processes together.
        except OSError:
            return
        else:
            return


def atomic_write(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file that is either missing or complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Output:
    """Keeps the newest output in two files, each at most half of the bound."""

    def __init__(self, folder: Path, bound: int) -> None:
        self._newest = folder / "output.log"
        self._previous = folder / "output.1.log"
        self._half = max(bound // 2, 1)
        self._file = self._newest.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append `data`, and drop the oldest half when the file is full."""
        try:
            self._file.write(data)
            self._size += len(data)
            if self._size > self._half:
                self._file.close()
                self._newest.replace(self._previous)
                self._file = self._newest.open("ab", buffering=0)
                self._size = 0
        except OSError:
            pass  # A full disk must not stop the job; its output is lost instead.


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
        # Signals that have arrived; a handler only appends to this list.
        self.signals: list[int] = []
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
        """Copy what the sandbox printed to the output; return whether there was something."""
        pipe = self.process.stdout
        if pipe is None or not select.select([pipe], [], [], seconds)[0]:
            return False
        data = os.read(pipe.fileno(), 65536)
        if not data:
            time.sleep(seconds)  # Its output is closed while it may still run.
            return False
        self.output.write(data)
        return True

    def _drain(self) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until and self._pump(0):
            pass


def supervise_child(limits: dict[str, int], parent: int, command: list[str]) -> int:
    """Run `command` on this process's own pipes, and return how it ended, encoded."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    bind_to_parent(parent, signal.SIGTERM)
    become_subreaper()
    start = partial(apply_limits, limits, os.getpid())
    try:
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=start)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 127
    # Only the command may hold the pipes, so that its end is visible on them.
    for descriptor in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    reason = None
    while reason is None and process.poll() is None:
        started = time.monotonic()
        reason = measure(limits)[1]
        # On a machine with many processes a look takes longer, and must stay a small share.
        pause = max(MEASURE_CHILD_EVERY, (time.monotonic() - started) / MEASURE_SHARE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause)
        reason = "stopped" if signals else reason
    end_tree(process)
    if reason is None and process.returncode == -signal.SIGXCPU:
        reason = "cpu_time"
    return encode(process.returncode, reason)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that they can be ended."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(limits: dict[str, int]) -> tuple[int, str | None]:
    """Return the memory of all descendants in bytes, and the limit that they exceed together."""
    members = descendants(os.getpid())
    used = sum(_resident(pid) for pid in members)
    if len(members) > limits["processes"]:
        return used, "processes"
    return used, "memory" if used > limits["memory_bytes"] else None


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap `process` and all descendants, also those in other sessions."""
    send_signal(-process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + KILL_SECONDS
    while (left := descendants(os.getpid())) and time.monotonic() < until:
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process, or to a group (minus its number), unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(root: int) -> list[int]:
    """Return the living descendants of `root`, without `root` itself."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.parent.name))
    found = list(children.get(root, []))
    for pid in found:  # It grows while it is walked.
        found += children.get(pid, [])
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = (PROC / str(pid) / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


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
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda got, _frame: supervisor.signals.append(got))
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        own = os.getpid()
        atomic_write(folder / "supervisor.json", {"pid": own, "identity": identity(own)})
        supervisor.run()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        # Not `sys.exit`, which restores the default of SIGTERM before the code is set.
        os._exit(supervise_child(json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
    sys.exit(main())
