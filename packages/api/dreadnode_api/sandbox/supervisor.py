"""The one process that stands over a sandbox: `python -I -S supervisor.py FOLDER < order.json`.

It starts the sandbox, holds it to its limits, keeps a bounded part of what it prints, ends it
with everything that it started, and writes down how it ended. Because it is the sandbox's parent
and no child of the dispatcher's, a sandbox survives its dispatcher, and the next one learns from
FOLDER all that this one would have known:

    warden.json   this process, written before the sandbox begins
    sandbox.json  the sandbox, which leads a process group of its own
    lock          held while this process lives, so that an attempt never runs twice
    attended      touched by whichever dispatcher looks after it
    output.log    the newest part of its output; output.1.log the part before
    exit.json     how it ended, written last

`supervisor.py --confine LIMITS PARENT COMMAND...` only sets its own limits and then becomes the
command.

SIGTERM asks the sandbox to stop and kills it after its grace period; SIGQUIT kills it at once.
Only the standard library is imported, and little of it: this process is paid for by every job.
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
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK = 0.25
MEASURE_EVERY = 1.0
DISK_EVERY = 5.0
CHUNK = 65536
PROC = Path("/proc")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def identity(pid: int) -> str | None:
    """Return what tells the process `pid` from any other that ever had its number.

    Its start, in ticks since the boot, and the boot: neither moves when the clock is set.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _identity_elsewhere(pid)
    fields = stat.rpartition(")")[2].split()
    # A zombie is no longer anybody.
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _identity_elsewhere(pid: int) -> str | None:
    if (PROC / "self").exists():
        return None
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def confine(limits: dict[str, int], parent: int) -> None:
    """Bind this process to `limits`, those that the kernel keeps, and to the life of `parent`."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # It died before it could be bound to.
    for what, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"]),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
    ):
        hard = resource.getrlimit(what)[1]
        wanted = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (wanted, wanted))


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """Write a file that is either not there or complete."""
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    with incoming.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(path)


class Output:
    """Keeps the newest output in two files of half the bound each."""

    def __init__(self, folder: Path, bound: int) -> None:
        self._now = folder / "output.log"
        self._before = folder / "output.1.log"
        self._half = max(bound // 2, 1)
        self._file = self._now.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Keep `data`, and forget the oldest when there is too much."""
        try:
            self._file.write(data)
            self._size += len(data)
            if self._size > self._half:
                self._file.close()
                self._now.replace(self._before)
                self._file = self._now.open("ab", buffering=0)
                self._size = 0
        except OSError:
            pass  # A full disk must not stop the job; what it prints is lost.


class Warden:
    """Stands over one sandbox from its start to its end."""

    def __init__(self, folder: Path, order: dict[str, Any]) -> None:
        self.folder = folder
        self.order = order
        self.limits: dict[str, int] = order["limits"]
        self.work = folder / "work"
        self.output = Output(folder, self.limits["output_bytes"])
        self.reason: str | None = None
        self.deadline: float | None = None
        # The signals that have come in; a handler only notes them down.
        self.wanted: list[int] = []
        self.peak = 0
        self.process: subprocess.Popen[bytes]

    def run(self) -> None:
        """Start the sandbox, watch it, end it, and write down how it ended."""
        self.work.mkdir(exist_ok=True)
        began = time.monotonic()
        try:
            self.process = self._start()
        except OSError as error:
            self.output.write(f"the sandbox cannot be started: {error}\n".encode())
            write_whole(self.folder / "exit.json", {"code": 127, "reason": None})
            return
        pid = self.process.pid
        write_whole(self.folder / "sandbox.json", {"pid": pid, "identity": identity(pid)})
        self._watch(began)
        self._end_all()
        self._drain()
        full = _bytes_under(self.work) >= self.limits["disk_bytes"]
        code = self.process.returncode
        if self.reason is None and code == -signal.SIGXCPU:
            self.reason = "cpu_time"
        if self.reason is None and code and full:
            # The system refused a write before we looked, and the sandbox died of that.
            self.reason = "disk"
        write_whole(
            self.folder / "exit.json",
            {
                "code": code,
                "reason": self.reason,
                "seconds": round(time.monotonic() - began, 3),
                "peak_bytes": self.peak,
            },
        )

    def _start(self) -> "subprocess.Popen[bytes]":
        if LIBC is not None:
            # What the sandbox starts and leaves behind becomes our child, and ends with us.
            LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        parent = os.getpid()
        # This process has one thread, so running Python after the fork is safe.
        return subprocess.Popen(
            self.order["command"],
            cwd=self.work,
            env=self.order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: confine(self.limits, parent),
        )

    def _watch(self, began: float) -> None:
        attended, seen_at = self._attended(), began
        next_measure = next_disk = began
        while self.process.poll() is None:
            self._pump(TICK)
            now = time.monotonic()
            if signal.SIGQUIT in self.wanted:
                self.kill_now()
            elif signal.SIGTERM in self.wanted:
                self.ask_to_stop()
            if (touched := self._attended()) != attended:
                attended, seen_at = touched, now
            if now >= next_disk:
                next_disk = now + DISK_EVERY
                if _bytes_under(self.work) > self.limits["disk_bytes"]:
                    self._overstepped("disk")
            if now >= next_measure:
                next_measure = now + MEASURE_EVERY
                self._measure()
            if now - began > self.limits["wall_seconds"]:
                self._overstepped("wall_time")
            if now - seen_at > self.order["orphan_seconds"]:
                self.ask_to_stop("orphaned")
            if self.deadline is not None and now > self.deadline:
                self.kill_now()

    def _measure(self) -> None:
        members = descendants(os.getpid())
        if len(members) > self.limits["processes"]:
            self._overstepped("processes")
        used = sum(_resident(pid) for pid in members)
        self.peak = max(self.peak, used)
        if used > self.limits["memory_bytes"]:
            self._overstepped("memory")

    def _overstepped(self, limit: str) -> None:
        self.reason = self.reason or limit
        self._kill_group()

    def ask_to_stop(self, reason: str = "stopped") -> None:
        """Ask the sandbox to save and stop, once; the grace period runs from now."""
        if self.deadline is None:
            self.reason = self.reason or reason
            self.deadline = time.monotonic() + self.order["stop_grace"]
            self._signal(self.process.pid, signal.SIGTERM)

    def kill_now(self) -> None:
        """Kill the sandbox."""
        self.reason = "killed" if self.reason in (None, "stopped") else self.reason
        self._kill_group()

    def _kill_group(self) -> None:
        self._signal(-self.process.pid, signal.SIGKILL)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _attended(self) -> float:
        try:
            return (self.folder / "attended").stat().st_mtime
        except OSError:
            return 0.0

    def _pump(self, seconds: float) -> bool:
        """Take over what the sandbox printed; say whether there was something."""
        pipe = self.process.stdout
        if pipe is None or not select.select([pipe], [], [], seconds)[0]:
            return False
        data = os.read(pipe.fileno(), CHUNK)
        if not data:
            # Its output is closed, and it may live on; waiting must not become a busy loop.
            time.sleep(seconds)
            return False
        self.output.write(data)
        return True

    def _drain(self) -> None:
        until = time.monotonic() + 2
        while self._pump(0) and time.monotonic() < until:
            pass

    def _end_all(self) -> None:
        """Kill and reap whatever the sandbox left behind, sessions of its own included."""
        self._kill_group()
        until = time.monotonic() + 10
        while (left := descendants(os.getpid())) and time.monotonic() < until:
            for pid in left:
                self._signal(pid, signal.SIGKILL)
            _reap()
            time.sleep(0.01)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(root: int) -> list[int]:
    """Return the living descendants of `root`, itself left out."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.parent.name))
    found, waiting = [], [root]
    while waiting:
        born = children.get(waiting.pop(), [])
        found += born
        waiting += born
    return found


def _resident(pid: int) -> int:
    try:
        pages = (PROC / str(pid) / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(root) / name).lstat().st_blocks * 512
            except OSError:
                continue
    return total


def main() -> int:
    """Stand over the sandbox that stdin describes, in the folder that the argument names."""
    folder = Path(sys.argv[1])
    order = json.load(sys.stdin)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 3  # Somebody stands over this attempt already.
        if (folder / "warden.json").exists():
            return 3  # It ran before; an attempt runs once.
        warden = Warden(folder, order)
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda got, _frame: warden.wanted.append(got))
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        write_whole(folder / "warden.json", {"pid": os.getpid(), "identity": identity(os.getpid())})
        warden.run()
    return 0


def become(limits: str, parent: str, *command: str) -> None:
    """Bind this process and become `command`: for what is short-lived and needs no warden."""
    confine(json.loads(limits), int(parent))
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1] == "--confine":
        become(*sys.argv[2:])
    sys.exit(main())
