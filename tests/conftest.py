"""A whole server, started as a person starts it: `dn serve`, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

DN = Path(sys.executable).with_name("dn")
MODEL = "Qwen/Qwen3-8B"
STAND_IN = "stand-in/SmolLM2-135M-Instruct"
READY_WITHIN = 120.0  # seconds
STOP_WITHIN = 60.0  # seconds


@dataclass(frozen=True)
class Said:
    """How a `dn` command ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Server:
    """One data directory, and the `dn serve` that runs on it."""

    folder: Path
    model: Path
    ports: tuple[int, int]
    process: "subprocess.Popen[bytes] | None" = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def start(self) -> None:
        """Start `dn serve` and wait until it is ready."""
        log = self.folder / "serve.log"
        offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(DN, "serve", "--data-dir", self.data),
                    *("--port", str(self.ports[0]), "--engine-port", str(self.ports[1])),
                    *("--model", f"{MODEL}={self.model}", "--model", f"{STAND_IN}={self.model}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        while b"ready on" not in log.read_bytes()[offset:]:
            words = log.read_text()[offset:]
            assert self.process.poll() is None, f"dn serve ended: {words}"
            assert time.monotonic() < deadline, f"dn serve is not ready: {words}"
            time.sleep(0.1)

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

    def processes(self) -> list[str]:
        """Return the command lines of all processes that this server started."""
        found = []
        for process in psutil.process_iter():
            try:
                belongs = process.environ().get("DREADNODE_CONFIG_DIR") == str(self.config)
                if belongs or str(self.folder) in " ".join(process.cmdline()):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    @property
    def config(self) -> Path:
        """The folder of the client's profiles."""
        return self.folder / "config"

    def dn(self, *arguments: str) -> Said:
        """Run a `dn` command against this server."""
        done = subprocess.run(
            [DN, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Callable[[], Server]]:
    """Make servers that are gone when the module ends."""
    made: list[Server] = []

    def make() -> Server:
        folder = tmp_path_factory.mktemp("server")
        server = Server(folder, tiny_model, (free_port(), free_port()))
        strangers = ("DREADNODE_", "TINKER_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(strangers)}
        server.environment = kept | {
            "DREADNODE_CONFIG_DIR": str(server.config),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TINKER_TELEMETRY": "0",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.process.terminate()
            server.process.wait(STOP_WITHIN)


@pytest.fixture(scope="module")
def server(servers: Callable[[], Server]) -> Server:
    """A server that is ready, shared by the tests of a module."""
    made = servers()
    made.start()
    return made
