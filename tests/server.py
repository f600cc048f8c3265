"""A whole server, started as a person starts it: `dn serve`, in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

DN = Path(sys.executable).with_name("dn")
MODEL = "Qwen/Qwen3-8B"
STAND_IN = "stand-in/SmolLM2-135M-Instruct"
READY_WITHIN = 120.0  # seconds
STOP_WITHIN = 60.0  # seconds
STRANGERS = ("DREADNODE_", "TINKER_")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class Said:
    """How a `dn` command ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Server:
    """One data directory, and the `dn serve` that runs on it.

    Attributes:
        folder: Where everything of it lies.
        model: The weights that it serves, as `MODEL` and as the stand-in; None for the real
            stand-in only.
        settings: Variables that it is started with.
        flags: Further arguments of `dn serve`.
        program: The `dn` to run.
    """

    folder: Path
    model: Path | None
    settings: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    program: Path = DN
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def config(self) -> Path:
        """The folder of the client's profiles."""
        return self.folder / "config"

    @property
    def log(self) -> Path:
        """What `dn serve` itself says."""
        return self.folder / "serve.log"

    @property
    def environment(self) -> dict[str, str]:
        """What the server and each `dn` are started with."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(STRANGERS)}
        return kept | {
            "DREADNODE_CONFIG_DIR": str(self.config),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TINKER_TELEMETRY": "0",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **self.settings,
        }

    def start(self) -> None:
        """Start `dn serve` and wait until it is ready."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(self.program, "serve", "--data-dir", self.data),
                    *("--port", str(self.ports[0])),
                    *self._engine(),
                    *self.flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        while b"ready on" not in self.log.read_bytes()[offset:]:
            words = self.log.read_text()[offset:]
            assert self.process.poll() is None, f"dn serve ended: {words}"
            assert time.monotonic() < deadline, f"dn serve is not ready: {words}"
            time.sleep(0.1)

    def _engine(self) -> tuple[str, ...]:
        if "TINKER_BASE_URL" in self.settings:
            return ()
        return ("--engine-port", str(self.ports[1]), *self._models())

    def _models(self) -> tuple[str, ...]:
        if self.model is None:
            return ()
        return ("--model", f"{MODEL}={self.model}", "--model", f"{STAND_IN}={self.model}")

    def kill(self) -> None:
        """Kill `dn serve` with SIGKILL, as an out-of-memory killer would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop `dn serve` as Ctrl-C does, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_WITHIN)

    def processes(self, holding: str = "") -> list[psutil.Process]:
        """Return the living processes of this server whose command line holds a text."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if holding not in line or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if str(self.folder) in line + process.cwd() or (
                    process.environ().get("DREADNODE_CONFIG_DIR") == str(self.config)
                ):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def dn(self, *arguments: str) -> Said:
        """Run a `dn` command against this server."""
        done = subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)
