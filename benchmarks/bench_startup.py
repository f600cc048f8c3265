"""How long `dn` takes to start, against `python -c pass` in the same run.

The commands take turns, so that a busy machine slows all of them alike; what is compared is the
median. Byte code is cached, as it is from the second time on that a person runs a command.
"""

from __future__ import annotations

import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 15
DN = Path(sys.executable).with_name("dn")
COMMANDS: dict[str, tuple[float | None, list[str | Path]]] = {
    "python -c pass": (None, [sys.executable, "-c", "pass"]),
    "dn --version": (3, [DN, "--version"]),
    "dn --help": (14, [DN, "--help"]),
    "dn train catalog --offline": (12, [DN, "train", "catalog", "--offline"]),
    "dn train catalog": (20, [DN, "train", "catalog"]),
    "import of get_training_model": (
        4,
        [sys.executable, "-c", "from dreadnode.training import get_training_model"],
    ),
    "dn train list": (None, [DN, "train", "list"]),
    "dn train sft --help": (None, [DN, "train", "sft", "--help"]),
}


class Api(http.server.BaseHTTPRequestHandler):
    """Answers what the commands ask, without taking time for it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a page that holds nothing."""
        page = {"items": [], "models": [], "total": 0, "page": 1, "page_size": 20, "limit": 20}
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def server() -> Iterator[str]:
    """Serve on a free port of this machine; yields the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{api.server_port}"
        api.shutdown()


def main() -> None:
    """Print the median of each command, and how many times that of plain Python it is."""
    with server() as url, tempfile.TemporaryDirectory() as empty:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "DREADNODE_CONFIG_DIR": empty,
            "DREADNODE_SERVER": url,
            "DREADNODE_API_KEY": "dn_benchmark",
            "DREADNODE_ORGANIZATION": "main",
            "DREADNODE_WORKSPACE": "default",
        }
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for round_ in range(ROUNDS + 1):
            for name, (_, command) in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(command, env=environ, check=True, capture_output=True)
                if round_:  # the first one writes the byte code
                    seconds[name].append(time.perf_counter() - start)
    plain = statistics.median(seconds["python -c pass"])
    for name, (most, _) in COMMANDS.items():
        median = statistics.median(seconds[name])
        aim = f"  (aim: at most {most})" if most else ""
        print(f"{name:30}{median * 1e3:7.0f} ms{median / plain:7.1f} times{aim}")


if __name__ == "__main__":
    main()
