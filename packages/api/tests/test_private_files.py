"""Everything that the server writes is for its own user only."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROW = b'{"prompt": "a", "response": "b"}\n'


def run(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DREADNODE_DATA_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "dreadnode_api", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        # As under a shell that lets everybody read.
        umask=0o022,
    )


def open_files(folder: Path) -> list[str]:
    """Return the files and folders that other users have access to."""
    found = [folder, *folder.rglob("*")]
    return [str(each) for each in found if stat.S_IMODE(each.stat().st_mode) & 0o077]


def test_the_first_start_writes_only_private_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    done = run(folder, "init")

    assert (folder / "dreadnode.db").exists()
    assert open_files(folder) == []
    assert "have access" not in done.stderr


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_an_open_data_directory_gives_a_warning_with_the_command_that_closes_it(
    tmp_path: Path, mode: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)

    done = run(folder, "init")

    assert f"(mode {mode:03o})" in done.stderr
    assert f"chmod 700 {folder}" in done.stderr


@one_database
async def test_a_clients_files_are_written_for_the_server_only(service: Any) -> None:
    folder = service.api.settings.data_dir
    before = set(folder.rglob("*"))
    service.start("serve")
    headers = {"X-API-Key": service.api.keys["admin"]}
    url = f"http://127.0.0.1:{service.port}/api/v1/org/acme/datasets/rows/1.0.0"
    async with httpx2.AsyncClient(headers=headers, timeout=60) as client:
        pushed = await client.put(url, content=ROW)

    assert pushed.status_code == 201, pushed.text
    written = [path for path in folder.rglob("*") if path not in before]
    blobs = [path for path in written if "blobs" in path.parts]
    assert blobs
    assert [path for path in blobs if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
