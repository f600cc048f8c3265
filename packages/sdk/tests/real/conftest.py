"""`dn serve` with the real API and dispatcher on SQLite, and `dn` against it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dreadnode.cli.main import run

HERE = Path(__file__).parent
DRIVER = f"""
import sys
from dreadnode.local_server import serve
from dreadnode.cli import main

serve.serve.__kwdefaults__["commands"] = serve.Commands(
    engine=(sys.executable, {str(HERE / "engine.py")!r})
)
sys.exit(main.run(sys.argv[1:]))
"""


LIVE = (
    # A test run in the background ignores SIGINT, and so would what it starts.
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from dreadnode.cli.main import run; "
    "from dreadnode.cli.train import live; live.REFRESH_SECONDS = 0.5; sys.exit(run(sys.argv[1:]))"
)


class Dn:
    """Runs `dn` and returns its transcript, with what differs from run to run named instead."""

    def __init__(self, folder: Path, capture: Callable[[], Any], server: Server) -> None:
        self.folder = folder
        self.server = server
        self._capture = capture
        self._names: dict[str, str] = {}

    def __call__(self, line: str) -> str:
        code, out, err = self.run(line)
        return self._named(f"exit: {code}\n--- stdout\n{out}--- stderr\n{err}")

    def run(self, line: str) -> tuple[int, str, str]:
        code = run(shlex.split(line))
        said = self._capture()
        return code, said.out, said.err

    def json(self, line: str) -> Any:
        """Return the data of a command that succeeds."""
        code, out, err = self.run(f"{line} --json")
        assert code == 0, err
        return json.loads(out)

    def _named(self, text: str) -> str:
        for found in re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", text):
            self._names.setdefault(found, f"<id {len(self._names) + 1}>")
        for found, name in self._names.items():
            text = text.replace(found, name)
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)
        text = re.sub(r"\bnow\b(?=\n)|\d+m ago(?=\n)", "<age>", text)
        text = re.sub(r"dn_[\w-]{43}", "<token>", text)
        text = re.sub(r"dn_\S{1,12}(?=\s)", "<hint>", text)
        text = text.replace(self.server.url, "<server>")
        return re.sub(r" +(?=\n)", "", text)


class Server:
    """A running `dn serve`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, engine_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        (folder / "driver.py").write_text(DRIVER)
        self.process = subprocess.Popen(
            [
                *(sys.executable, folder / "driver.py", "serve", "--data-dir", folder / "data"),
                *("--port", str(port), "--engine-port", str(engine_port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "DREADNODE_CONFIG_DIR": str(folder / "config"),
                "DREADNODE_RUNTIME_COMMAND": f"{sys.executable} {HERE / 'sandbox.py'}",
            },
        )
        said = ""
        assert self.process.stdout
        while not (line := self.process.stdout.readline()).startswith("ready on"):
            said += line
            assert line, said

    def kill(self, part: str) -> None:
        """Kill one of the server's processes."""
        listed = subprocess.run(
            ["ps", "-o", "pid,args", "--ppid", str(self.process.pid)],
            check=True,
            capture_output=True,
            text=True,
        )
        pid = next(line.split()[0] for line in listed.stdout.splitlines() if part in line)
        os.kill(int(pid), signal.SIGKILL)

    def stop(self) -> str:
        self.process.terminate()
        said, _ = self.process.communicate(timeout=60)
        return said


class Terminal:
    """A program that runs in a pseudo-terminal of 80 columns and 24 rows."""

    def __init__(self, *arguments: str) -> None:
        self.screen = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LIVE, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"},
        )
        os.close(slave)

    def until(self, is_enough: Callable[[str], bool], seconds: float = 120) -> str:
        """Read until what is new IS_ENOUGH, and return it."""
        new, deadline = "", time.monotonic() + seconds
        while not is_enough(new):
            assert time.monotonic() < deadline, new[-3000:]
            if select.select([self._master], [], [], 0.2)[0]:
                new += os.read(self._master, 65536).decode(errors="replace")
        self.screen += new
        return new

    def highest(self, pattern: str, text: str | None = None) -> int:
        """Return the largest number that PATTERN finds in TEXT, or on the screen so far."""
        found = re.findall(pattern, self.screen if text is None else text)
        return max(map(int, found), default=0)

    def close(self) -> None:
        """End the program, if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def dn(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Dn:
    """Run `dn` in an account that has just made its first start."""
    monkeypatch.setenv("DREADNODE_CONFIG_DIR", str(server.folder / "config"))
    monkeypatch.chdir(tmp_path)
    return Dn(tmp_path, capsys.readouterr, server)


@pytest.fixture
def open_terminal(dn: Dn) -> Iterator[Callable[..., Terminal]]:
    """Run `dn` in a terminal, in the account of the test."""
    opened: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()
