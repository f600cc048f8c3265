"""What user code can reach: with namespaces of its own, and where the system has none for it."""

import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_runtime.user_code.processes import CodeFailed, Pool

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux confines code")
Run = Callable[..., Awaitable[Any]]
ALONE = "no files but Python's own, read-only"


@pytest.fixture(params=[True, False], ids=["namespaces", "without namespaces"])
def namespaces(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def run(namespaces: bool) -> AsyncIterator[Run]:
    """Run the body of a function in a confined process, and return what it returns."""
    pools: list[Pool] = []

    async def run(*lines: str, seconds: float = 60) -> Any:
        source = "\n".join(["def attempt():", *(f"    {line}" for line in lines)])
        pools.append(
            Pool(
                source,
                ["attempt"],
                processes=1,
                memory_mb=1024,
                seconds=seconds,
                namespaces=namespaces,
            )
        )
        run.limits = await pools[-1].confined()  # type: ignore[attr-defined]
        return await pools[-1].call("attempt", number=False)

    yield run
    for pool in pools:
        await pool.close()


async def test_the_active_limits_are_named(run: Run, namespaces: bool) -> None:
    await run("pass")

    limits: list[str] = run.limits  # type: ignore[attr-defined]
    assert "no network" in limits
    assert ALONE in limits if namespaces else ALONE not in limits
    if not namespaces:
        assert "no change of files' modes, owners, times or attributes" in limits
        assert any("names and sizes of others show" in limit for limit in limits)


async def test_python_and_installed_packages_can_be_used(run: Run) -> None:
    assert await run(
        "import asyncio, numpy as np, json, sqlite3, ssl, zoneinfo, subprocess, sys",
        "async def add(): return int(np.arange(4).sum())",
        "out = subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True)",
        "return [asyncio.run(add()), out.stdout.strip(), str(zoneinfo.ZoneInfo('UTC'))]",
    ) == [6, "7", "UTC"]


@pytest.mark.parametrize("kind", ["unix", "abstract", "tcp"])
async def test_servers_of_the_machine_are_unreachable(run: Run, tmp_path: Path, kind: str) -> None:
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    path = {"unix": str(tmp_path / "s"), "abstract": f"\0test-{os.getpid()}"}.get(kind)
    with socket.socket(family) as server:
        server.bind(path or ("127.0.0.1", 0))
        server.listen()
        address = path or server.getsockname()

        with pytest.raises(CodeFailed, match=r"PermissionError|OSError"):
            await run("import socket", f"socket.socket({int(family)}).connect({address!r})")


@pytest.mark.parametrize(
    "call",
    [
        "open(path).read()",
        "open(path, 'w')",
        "os.chmod(path, 0o777)",
        "os.chown(path, 0, 0)",
        "os.utime(path, (1, 1))",
        "os.utime(path, (1, 1), follow_symlinks=False)",
        "os.setxattr(path, 'user.seen', b'1')",
        "os.unlink(path)",
        "os.rename(path, path + 'x')",
        "os.truncate(path, 0)",
        "os.link(path, path + 'x')",
        "os.symlink(path, path + 'x')",
        "os.mkdir(path + 'x')",
        "os.mkfifo(path + 'x')",
        "os.listdir(os.path.dirname(path))",
    ],
)
async def test_outside_files_are_neither_readable_nor_writable(
    run: Run, tmp_path: Path, call: str
) -> None:
    secret = tmp_path / "engine.key"
    secret.write_text("tml-secret")
    secret.chmod(0o640)
    before = secret.stat()

    with pytest.raises(CodeFailed, match=r"PermissionError|FileNotFoundError|OSError"):
        await run("import os", f"path = {str(secret)!r}", call)

    after = secret.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (
        before.st_mode, before.st_mtime_ns, before.st_size,
    )  # fmt: skip
    assert os.listdir(tmp_path) == ["engine.key"]  # noqa: PTH208


async def test_with_namespaces_other_files_are_invisible(tmp_path: Path) -> None:
    paths = [str(tmp_path), __file__, "/proc", "/sys", "/var", "/tmp", "/etc/passwd"]
    # The folders above Python itself exist, without anything else in them.
    paths = [path for path in paths if not sys.prefix.startswith(path + "/")]
    source = f"import os\ndef attempt(): return [p for p in {paths!r} if os.path.lexists(p)]"
    pool = Pool(source, ["attempt"], processes=1, memory_mb=512, seconds=30)

    if ALONE in await pool.confined():
        assert await pool.call("attempt", number=False) == []
    await pool.close()


@pytest.mark.parametrize(
    "call",
    [
        "os.kill(PID, 0)",
        "open(f'/proc/{PID}/environ').read()",
        "ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0) and os.kill(1 << 22, 0)",
        "resource.prlimit(PID, resource.RLIMIT_NOFILE, resource.prlimit(PID, 7))",
        "os.setpriority(os.PRIO_PROCESS, PID, 5)",
        "os.sched_setaffinity(PID, {0})",
        "os.sched_setscheduler(PID, os.SCHED_BATCH, os.sched_param(0))",
    ],
)
async def test_other_processes_are_unreachable(run: Run, call: str) -> None:
    with pytest.raises(CodeFailed, match=r"PermissionError|FileNotFoundError|ProcessLookupError"):
        await run("import ctypes, os, resource", f"PID = {os.getpid()}", call)


async def test_its_own_limits_can_be_read_and_lowered(run: Run) -> None:
    assert await run(
        "import resource",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))",
        "return resource.getrlimit(resource.RLIMIT_NOFILE)",
    ) == [32, 32]


async def test_a_new_namespace_does_not_undo_the_limits(run: Run) -> None:
    assert await run(
        "import ctypes",
        "libc = ctypes.CDLL(None, use_errno=True)",
        "mounted = libc.mount(b'x', b'/', b'tmpfs', 0, None)",
        "return [libc.unshare(0x10000000), libc.unshare(0x20000), mounted]",
    ) == [-1, -1, -1]


async def test_its_child_processes_end_with_it(run: Run, namespaces: bool) -> None:
    mark = f"nap-{os.getpid()}-{namespaces}"
    nap = f"'import time; time.sleep(600)  # {mark}'"

    with pytest.raises(CodeFailed, match="took longer"):
        await run(
            "import subprocess, sys, time",
            f"subprocess.Popen([sys.executable, '-c', {nap}], start_new_session=True)",
            "time.sleep(600)",
            seconds=3,
        )

    if "no sight of other processes" not in run.limits:  # type: ignore[attr-defined]
        left = [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]
        for process in left:
            process.kill()
        return
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]


@pytest.mark.parametrize(
    "forged",
    [
        '{"confined": ["no limits at all"]}',
        '{"id": 0, "value": 1}',
        '{"id": 1, "value": "text"}',
        '{"id": 1, "value": 1e999}',
        '{"id": 7, "value": 1}',
        "[1]",
        "nonsense",
    ],
)
async def test_custom_code_cannot_write_the_processs_response(forged: str) -> None:
    source = "\n".join(
        [
            "import os",
            "def attempt():",
            "    for number in range(3, 20):",
            f"        try: os.write(number, {(forged + chr(10)).encode()!r})",
            "        except OSError: pass",
            "    return 1",
        ]
    )
    pool = Pool(source, ["attempt"], processes=1, memory_mb=512, seconds=30)
    limits = await pool.confined()

    with pytest.raises(CodeFailed, match="its process sent an invalid response"):
        await pool.call("attempt")

    assert "no limits at all" not in limits
    await pool.close()


async def test_custom_code_cannot_write_a_response_while_it_is_loaded() -> None:
    source = "\n".join(
        [
            "import os",
            "for number in range(3, 20):",
            "    try: os.write(number, b'{\"confined\": []}' + bytes([10]))",
            "    except OSError: pass",
            "def attempt(): return 1",
        ]
    )
    pool = Pool(source, ["attempt"], processes=1, memory_mb=512, seconds=30)

    with pytest.raises(CodeFailed, match="its process sent an invalid response"):
        await pool.confined()
    await pool.close()
