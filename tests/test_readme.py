"""The README's commands work as they are printed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from .server import DN, Server

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readme_names_only_existing_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = set(re.findall(r"\bmake ([a-z-]+)", README))

    assert {"demo", "test", "serve"} <= named <= targets


def test_the_commands_of_the_second_terminal_run_as_printed(server: Server) -> None:
    [block] = [block for block in BLOCKS if "dn dataset push" in block]
    # Activating an environment means that its commands come first on the path.
    script = block.replace("source .venv/bin/activate\n", "")

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=server.environment | {"PATH": f"{DN.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"`(dn [a-z]+(?: [a-z]+)?)", README))), ids=lambda line: line
)
def test_every_command_named_by_the_readme_has_help(server: Server, line: str) -> None:
    said = server.dn(*line.split()[1:], "--help")

    assert (said.code, said.err) == (0, "")
