"""The Ray runner, against a real cluster of one processor that asks for a token.

These tests start it and stop it.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_api.sandbox import exit_codes, runners
from dreadnode_api.sandbox.runner import (
    Exited,
    Lost,
    RunnerUnavailable,
    Running,
    Sandbox,
    State,
)
from dreadnode_api.settings import Settings, SettingsError

# What Ray's own client and its cluster read, once, when they are imported; the runner knows
# nothing of it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-the-tests-of-the-ray-runner"}
os.environ.update(TOKEN)
pytest.importorskip("ray", reason="the extra `dreadnode-training-api[ray]` is not installed")
pytestmark = pytest.mark.timeout(240)

LIMITS = {
    "memory_bytes": 2**31,
    "cpu_seconds": 60,
    "wall_seconds": 60,
    "open_files": 256,
    "processes": 16,
    "disk_bytes": 2**24,
    "output_bytes": 4096,
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster on this machine, by the address of its dashboard."""
    port, ray = _free_port(), Path(sys.executable).with_name("ray")
    # Ray keeps sockets in its folder, and their paths must be short.
    temporary = Path("/tmp") / f"ray-test-{os.getpid()}"
    command = [
        *(str(ray), "start", "--head", "--block", "--num-cpus=1", "--num-gpus=0"),
        *("--port=0", "--object-store-memory=80000000", "--include-dashboard=true"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir={temporary}"),
        *("--node-ip-address=127.0.0.1", "--disable-usage-stats"),
        f"--dashboard-agent-listen-port={_free_port()}",
    ]
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_worker_maximum_startup_concurrency": "1",
        **TOKEN,
    }
    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with log.open("wb") as file:
        head = subprocess.Popen(
            command, env=environ, stdout=file, stderr=file, start_new_session=True
        )
    try:
        _wait_for_dashboard(port, head, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(head)
        subprocess.run(["rm", "-rf", str(temporary)], check=False)


def _wait_for_dashboard(port: int, head: subprocess.Popen[bytes], log: Path) -> None:
    import urllib.request

    until = time.monotonic() + 120
    asking = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/version",
        headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"},
    )
    while True:
        try:
            with urllib.request.urlopen(asking, timeout=2):
                return
        except OSError:
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)


def _end(head: subprocess.Popen[bytes]) -> None:
    family = [*psutil.Process(head.pid).children(recursive=True)] if head.poll() is None else []
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        head.kill()
    for process in psutil.wait_procs(family, timeout=10)[1]:
        process.kill()


@pytest.fixture
def runner(cluster: str, tmp_path: Path) -> Any:
    settings = Settings(
        data_dir=tmp_path, runner="ray", ray_address=cluster, ray_python=sys.executable
    )
    return runners.create(settings)


def sandbox(
    code: str, job_id: str, *, limits: dict[str, int] = LIMITS, grace: float = 10
) -> Sandbox:
    return Sandbox(
        job_id=job_id,
        attempt=1,
        command=(sys.executable, "-c", code),
        environment={"PATH": "/usr/bin", "SECRET": "tml-secret"},
        limits=limits,
        stop_grace=grace,
        orphan_seconds=60,
    )


async def begin(runner: Any, wanted: Sandbox) -> None:
    """Start as the dispatcher does: while the cluster is away, only asking again tells."""
    while True:
        try:
            return await runner.start(wanted)
        except RunnerUnavailable:
            await asyncio.sleep(0.5)


async def end_of(runner: Any, job_id: str) -> State:
    while isinstance(state := await runner.state(job_id, 1), Running):
        await asyncio.sleep(0.2)
    return state


async def test_a_sandbox_runs_in_a_clean_environment_and_its_output_is_kept(
    runner: Any, tmp_path: Path
) -> None:
    code = "import os; print(sorted(os.environ)); print('in', os.getcwd() == os.environ['HOME'])"
    await begin(runner, sandbox(code, "clean"))

    assert await end_of(runner, "clean") == Exited(0)
    lines = await runner.output("clean", 1, 2)
    assert lines == ["['HOME', 'LC_CTYPE', 'PATH', 'SECRET', 'TMPDIR']", "in True"]
    await runner.clean("clean", 1)
    assert (tmp_path / "jobs/clean/1/output.log").read_text().endswith("in True\n")
    # Ray forgets the job, and with it the keys in its environment.
    assert await runner.state("clean", 1) == Lost()


async def test_an_attempt_starts_once_at_repeated_submissions(runner: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"open({str(told)!r}, 'a').write('once')"
    await asyncio.gather(*(begin(runner, sandbox(code, "once")) for _ in range(3)))
    await end_of(runner, "once")
    await begin(runner, sandbox(code, "once"))

    assert await end_of(runner, "once") == Exited(0)
    assert told.read_text() == "once"


async def test_the_exit_code_of_a_sandbox_and_the_exceeded_limit_are_returned(runner: Any) -> None:
    await begin(runner, sandbox("raise SystemExit(75)", "again"))
    assert await end_of(runner, "again") == Exited(75)

    await begin(runner, sandbox("import os; os.kill(os.getpid(), 9)", "killed"))
    assert await end_of(runner, "killed") == Exited(-9)

    limits = LIMITS | {"wall_seconds": 1}
    await begin(runner, sandbox("import time; time.sleep(600)", "slow", limits=limits))
    assert await end_of(runner, "slow") == Exited(-9, "wall_time")


async def test_a_stopped_sandbox_saves_and_is_then_gone(runner: Any, tmp_path: Path) -> None:
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time\n"
        f"save = lambda *_: (time.sleep(4), pathlib.Path({str(saved)!r}).touch(), sys.exit(0))\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(600)"
    )
    await begin(runner, sandbox(code, "stopped"))
    while not ready.exists():
        await asyncio.sleep(0.1)

    await runner.stop("stopped", 1)

    # Longer than the three seconds that Ray gives by itself.
    assert await end_of(runner, "stopped") == Exited(-15, "stopped")
    assert saved.exists()


async def test_a_sandbox_that_ignores_a_stop_is_killed_with_all_its_child_processes(
    runner: Any, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    code = (
        "import signal, subprocess, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'],"
        " start_new_session=True)\n"
        "time.sleep(1)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    await begin(runner, sandbox(code, "deaf", grace=1))
    while not pid.exists() or not pid.read_text():
        await asyncio.sleep(0.1)

    await runner.stop("deaf", 1)

    assert isinstance(await end_of(runner, "deaf"), Exited)
    assert not psutil.pid_exists(int(pid.read_text()))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_job_runs_from_the_queue_through_the_cluster_to_its_end(
    service: Any, cluster: str
) -> None:
    service.environ = {
        "DREADNODE_RUNNER": "ray",
        "DREADNODE_RAY_ADDRESS": cluster,
        "DREADNODE_RAY_PYTHON": sys.executable,
        **TOKEN,
    }
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config={"steps": 3})

    done = await service.ended(job["id"], 120)

    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert done["artifacts"] == {"adapter": "adapter/"}


@pytest.mark.parametrize("environ", [{}, {**TOKEN, "RAY_AUTH_TOKEN": "another"}])
async def test_a_cluster_that_refuses_the_token_is_asked_again_and_no_sandbox_is_lost(
    cluster: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    # Ray's client reads its token once in a process.
    program = (
        "import asyncio, pathlib, sys\n"
        "from dreadnode_api.sandbox import runners\n"
        "from dreadnode_api.settings import Settings\n"
        "settings = Settings(data_dir=pathlib.Path(sys.argv[1]), runner='ray',"
        " ray_address=sys.argv[2])\n"
        "asyncio.run(runners.create(settings).state('job', 1))\n"
    )
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path), cluster),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ},
        stderr=subprocess.PIPE,
    )

    _, said = await asking.communicate()

    assert asking.returncode == 1
    last = said.decode().strip().splitlines()
    assert any("RunnerUnavailable" in line or "_Refused" in line for line in last), said.decode()


async def test_an_attempt_that_was_never_submitted_is_lost(runner: Any) -> None:
    assert await runner.state("nobody", 1) == Lost()


async def test_an_unreachable_cluster_loses_no_sandbox(
    tmp_path: Path,
) -> None:
    address = f"http://127.0.0.1:{_free_port()}"
    away = runners.create(Settings(data_dir=tmp_path, runner="ray", ray_address=address))

    with pytest.raises(RunnerUnavailable, match="the Ray cluster does not answer"):
        await away.state("job", 1)
    with pytest.raises(RunnerUnavailable):
        await away.start(sandbox("pass", "job"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ray_address": ""}, "must be the address of the cluster's dashboard"),
        ({"ray_address": "ray://head:10001"}, "must be the address of the cluster's dashboard"),
        ({"ray_address": "http://head:8265"}, "set `DREADNODE_PUBLIC_URL`"),
        (
            {
                "ray_address": "http://head:8265",
                "public_url": "http://server:8799",
                "engine_url": "http://127.0.0.1:8800",
            },
            "set `TINKER_BASE_URL`",
        ),
        ({"runner": "slurm"}, "must be one of `ray`, `subprocess`, not `slurm`"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(
    changes: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"data_dir": tmp_path, "runner": "ray", **changes}

    with pytest.raises(SettingsError, match=sentence):
        runners.create(Settings(**given))


@pytest.mark.parametrize(
    ("code", "reason"), [(0, None), (1, None), (75, None), (-9, None), (-15, None)]
)
def test_an_exit_code_encodes_how_a_sandbox_ended(code: int, reason: str | None) -> None:
    assert exit_codes.decode(exit_codes.encode(code, reason)) == (code, reason)


def test_the_exit_reason_survives_the_exit_code() -> None:
    assert exit_codes.decode(exit_codes.encode(-9, "memory")) == (-9, "memory")
