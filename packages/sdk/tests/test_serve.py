"""`dn serve` as a process with real signals; API, dispatcher and engine are stand-ins."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

WITHIN = 60.0

STAND_IN = """
import json, os, signal, socket, sys, threading, time

part, command, *flags = sys.argv[1:]
data = os.environ.get("DREADNODE_DATA_DIR") or flags[flags.index("--data-dir") + 1]
server = "api" if part == "dreadnode_api" else "engine"
name = {"init": "init", "dispatch": "dispatcher"}.get(command, server)

def tell(event):
    with open(os.path.join(data, "events"), "a") as file:
        file.write(f"{name} {event} {os.getpid()}\\n")

if name == "init":
    if os.path.exists(os.path.join(data, "broken")):
        sys.exit("error: the database is newer than this version")
    marker = os.path.join(data, "initialised")
    created = not os.path.exists(marker)
    open(marker, "a").close()
    print("some log line")
    answer = {"organization": "main", "workspace": "default", "token": "dn_first"}
    print(json.dumps({"created": created, **answer} if created else {"created": False}))
    sys.exit()

with open(os.path.join(data, f"{name}.json"), "w") as file:
    facts = {"folder": os.getcwd(), "umask": os.umask(0o077)}
    json.dump({"arguments": flags, "environment": dict(os.environ), **facts}, file)
if "--port" in flags:
    server = socket.create_server(("127.0.0.1", int(flags[flags.index("--port") + 1])))

def end(*_):
    tell("stopped")
    os._exit(0)

def lifeline():
    sys.stdin.buffer.read()
    time.sleep(0.5)
    tell("orphaned")
    os._exit(0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, lambda *_: tell("interrupted"))
threading.Thread(target=lifeline, daemon=True).start()
tell("started")
print(f"{name} ready on somewhere" if name != "dispatcher" else "dispatcher ready", flush=True)
while True:
    time.sleep(3600)
"""

DRIVER = """
import sys
from pathlib import Path
from dreadnode.local_server import serve
from dreadnode.cli import main

stand_in = (sys.executable, {stand_in!r})
serve.serve.__kwdefaults__["commands"] = serve.Commands(
    app=(*stand_in, "dreadnode_api"), engine=(*stand_in, "engine")
)
sys.exit(main.run(sys.argv[1:]))
"""


class Server:
    """`dn serve` on a data directory of the test's, again and again if need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "config"
        self.port, self.engine_port = free_port(), free_port()
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
        driver = DRIVER.format(stand_in=str(folder / "stand_in.py"))
        (folder / "driver.py").write_text(textwrap.dedent(driver))

    def start(self, *flags: str, ready: bool = True, **environ: str) -> subprocess.Popen[str]:
        """Start it, and wait until it is ready if it is to become so."""
        ports = {"--port": str(self.port), "--engine-port": str(self.engine_port)}
        given = [word for flag in ports if flag not in flags for word in (flag, ports[flag])]
        process = subprocess.Popen(
            [
                *(sys.executable, self.folder / "driver.py", "serve"),
                *(*given, "--data-dir", self.data, *flags),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "DREADNODE_CONFIG_DIR": str(self.config),
                **environ,
            },
        )
        self.processes.append(process)
        self.said = ""
        while ready:
            assert process.stdout
            line = process.stdout.readline()
            self.said += line
            assert line, self.said
            ready = not line.startswith("ready on")
        return process

    def run(self, *flags: str, **environ: str) -> tuple[int, str]:
        """Start it where it is to refuse, and return its exit code and words."""
        process = self.start(*flags, ready=False, **environ)
        said, _ = process.communicate(timeout=WITHIN)
        return process.returncode, said.replace(str(self.folder), "HERE")

    def stop(self, process: subprocess.Popen[str], number: signal.Signals) -> int:
        """Send it a signal and return its exit code."""
        process.send_signal(number)
        said, _ = process.communicate(timeout=WITHIN)
        self.said += said
        return process.returncode

    @property
    def events(self) -> list[tuple[str, str, int]]:
        path = self.data / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], line.split()[1], int(line.split()[2])) for line in lines]

    def names(self, wanted: str) -> list[str]:
        return [name for name, event, _ in self.events if event == wanted]

    @property
    def alive(self) -> list[str]:
        return [name for name, event, pid in self.events if event == "started" and alive(pid)]

    def started_with(self, name: str) -> dict[str, Any]:
        """Return how a stand-in was started: arguments, environment, folder and umask."""
        found: dict[str, Any] = yaml.safe_load((self.data / f"{name}.json").read_text())
        return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    for process in server.processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    for name, event, pid in server.events:
        if event == "started" and name and alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_the_first_start_shows_the_token_once_and_saves_it_as_a_profile(server: Server) -> None:
    process = server.start()
    server.stop(process, signal.SIGINT)

    assert server.said.count("dn_first") == 1
    assert (
        f"export DREADNODE_SERVER=http://127.0.0.1:{server.port} DREADNODE_API_KEY=dn_first "
        "DREADNODE_ORGANIZATION=main DREADNODE_WORKSPACE=default\n"
    ) in server.said
    saved = yaml.safe_load((server.config / "config.yaml").read_text())
    assert saved["servers"][saved["active"]] == {
        "url": f"http://127.0.0.1:{server.port}",
        "api_key": "dn_first",
        "default_organization": "main",
        "default_workspace": "default",
    }

    server.stop(server.start(), signal.SIGINT)

    assert "dn_first" not in server.said
    assert server.said.startswith("starting in")


def test_existing_profiles_stay_unchanged(server: Server) -> None:
    server.config.mkdir()
    (server.config / "config.yaml").write_text("active: mine\n")

    server.stop(server.start(), signal.SIGTERM)

    assert (server.config / "config.yaml").read_text() == "active: mine\n"
    assert "exists and stays unchanged" in server.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_dispatcher_first_and_the_engine_last(
    server: Server, number: signal.Signals
) -> None:
    code = server.stop(server.start(), number)

    assert code == 0
    assert server.names("stopped") == ["dispatcher", "api", "engine"]
    assert server.alive == []
    assert server.said.endswith("stopping; running jobs return to the queue\nstopped\n")


def test_on_stop_leave_is_announced_and_passed_to_the_dispatcher(
    server: Server,
) -> None:
    server.stop(server.start("--on-stop", "leave"), signal.SIGTERM)

    assert server.started_with("dispatcher")["environment"]["DREADNODE_ON_STOP"] == "leave"
    assert "stopping; running jobs keep running until the next start adopts them\n" in server.said


def test_ctrl_c_is_handled_by_the_server_only_and_not_by_its_processes(server: Server) -> None:
    process = server.start()
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=WITHIN)

    assert server.names("interrupted") == []


def test_the_processes_get_addresses_and_secrets_in_their_environment(
    server: Server,
) -> None:
    (server.folder / "weights").mkdir()
    weights = f"Qwen/Qwen3-8B={server.folder / 'weights'}"
    process = server.start(
        *("--model", weights, "--memory-gib", "4.5", "--dtype", "auto"),
        DREADNODE_API_KEY="dn_of_a_person",
    )
    server.stop(process, signal.SIGTERM)

    api, dispatcher, engine = (
        server.started_with(name) for name in ("api", "dispatcher", "engine")
    )
    key = (server.data / "engine.key").read_text().strip()
    assert key.startswith("tml-")
    assert stat.S_IMODE((server.data / "engine.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    for found in (api, dispatcher, engine):
        environment = found["environment"]
        assert environment["DREADNODE_ENGINE_KEY"] == key
        assert environment["TINKER_BASE_URL"] == f"http://127.0.0.1:{server.engine_port}"
        assert environment["DREADNODE_PUBLIC_URL"] == f"http://127.0.0.1:{server.port}"
        assert "DREADNODE_API_KEY" not in environment
        assert key not in " ".join(found["arguments"])
    assert engine["arguments"][-6:] == [
        *("--model", weights, "--memory-gib", "4.5", "--dtype", "auto"),
    ]
    assert api["arguments"] == ["--host", "127.0.0.1", "--port", str(server.port)]


def test_the_engines_key_stays_the_same_across_restarts(server: Server) -> None:
    keys = set()
    for _ in range(2):
        server.stop(server.start(), signal.SIGTERM)
        keys.add((server.data / "engine.key").read_text())

    assert len(keys) == 1


def test_hosted_tinker_starts_no_local_engine(server: Server) -> None:
    process = server.start(TINKER_API_KEY="tml-hosted")
    server.stop(process, signal.SIGTERM)

    assert server.names("started") == ["api", "dispatcher"]
    environment = server.started_with("api")["environment"]
    assert environment["TINKER_BASE_URL"].startswith("https://tinker.thinkingmachines.dev/")
    assert environment["TINKER_API_KEY"] == "tml-hosted"
    assert "DREADNODE_ENGINE_KEY" not in environment


def test_the_dispatcher_gets_the_runner_and_the_public_address(
    server: Server,
) -> None:
    flags = ["--runner", "ray", "--ray-address", "http://head:8265"]
    process = server.start(*flags, DREADNODE_PUBLIC_URL="https://train.example.com")
    server.stop(process, signal.SIGTERM)

    environment = server.started_with("dispatcher")["environment"]
    assert environment["DREADNODE_RUNNER"] == "ray"
    assert environment["DREADNODE_RAY_ADDRESS"] == "http://head:8265"
    assert environment["DREADNODE_PUBLIC_URL"] == "https://train.example.com"


def test_a_killed_process_is_started_again(server: Server) -> None:
    process = server.start()
    api = next(pid for name, event, pid in server.events if (name, event) == ("api", "started"))

    os.kill(api, signal.SIGKILL)
    until(lambda: server.names("started").count("api") == 2)

    assert server.names("started").count("engine") == 1
    assert server.stop(process, signal.SIGTERM) == 0
    assert server.alive == []


def test_after_a_kill_all_processes_stop_and_the_next_start_waits_for_the_ports(
    server: Server,
) -> None:
    process = server.start()
    process.kill()
    process.communicate()

    again = server.start()

    assert sorted(server.names("orphaned")) == ["api", "dispatcher", "engine"]
    assert sorted(server.alive) == ["api", "dispatcher", "engine"]
    assert server.stop(again, signal.SIGTERM) == 0


def test_a_second_server_on_the_same_data_is_refused_with_the_process_id_of_the_first(
    server: Server,
) -> None:
    process = server.start()

    code, said = server.run("--port", str(free_port()))

    assert code == 1
    assert said == (
        f"error: another `dn serve` (process {process.pid}) uses HERE/data; stop it, or "
        "choose another directory with `--data-dir`\n"
    )
    assert sorted(server.alive) == ["api", "dispatcher", "engine"]


@pytest.mark.parametrize("flag", ["--port", "--engine-port"])
def test_a_port_in_use_is_refused_before_anything_is_written(server: Server, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = server.run(flag, str(port))

    assert code == 1
    assert said == (
        f"error: port {port} on 127.0.0.1 cannot be used: address already in use; choose another "
        f"with `{flag}`\n"
    )
    assert [path.name for path in server.data.iterdir()] == ["serve.lock"]


def test_a_data_directory_that_is_not_writable_is_refused(server: Server) -> None:
    server.data.write_text("a file")

    code, said = server.run()

    assert code == 1
    assert said == (
        "error: the data directory HERE/data cannot be written: file exists; choose another with "
        "`--data-dir`\n"
    )


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs /proc")
def test_a_data_directory_without_permission_is_refused(server: Server) -> None:
    server.data = Path("/proc/dreadnode")

    code, said = server.run()

    assert code == 1
    assert re.fullmatch(
        r"error: the data directory /proc/dreadnode cannot be written: .*; choose another with "
        r"`--data-dir`\n",
        said,
    )


def test_an_address_of_another_machine_is_refused(server: Server) -> None:
    code, said = server.run("--host", "192.0.2.1")

    assert code == 1
    assert said.startswith(f"error: port {server.port} on 192.0.2.1 cannot be used: ")


def test_a_failed_migration_ends_the_start_with_its_message(server: Server) -> None:
    server.data.mkdir(mode=0o700)
    (server.data / "broken").touch()

    code, said = server.run()

    assert code == 1
    assert said == (
        "error: the database could not be prepared:\n"
        "  error: the database is newer than this version\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "0"], "`--port` must be from 1 to 65535, not 0"),
        (["--port", "70000"], "`--port` must be from 1 to 65535, not 70000"),
        (["--port", "5", "--engine-port", "5"], "`--port` and `--engine-port` must differ"),
        (["--model", "Qwen/Qwen3-8B"], "`--model Qwen/Qwen3-8B` is not ID=PATH"),
        (
            ["--model", "a=/nowhere"],
            "`--model a=/nowhere`: /nowhere is not a folder or a GGUF file",
        ),
        (["--memory-gib", "0"], "`--memory-gib` must be above 0 and below 1000000, not 0"),
        (["--ray-address", "http://head:8265"], "`--ray-address` needs `--runner ray`"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    server: Server, flags: list[str], sentence: str
) -> None:
    code, said = server.run(*flags)

    assert code == 2
    assert said.startswith(f"error: {sentence}")
    assert not server.data.exists()


def test_a_server_that_other_machines_can_reach_prints_a_warning(server: Server) -> None:
    process = server.start("--host", "0.0.0.0")
    server.stop(process, signal.SIGTERM)

    assert "warning: other machines can reach 0.0.0.0 without TLS" in server.said
    assert server.started_with("api")["environment"]["DREADNODE_PUBLIC_URL"].startswith(
        "http://127.0.0.1:"
    )


def test_every_process_runs_in_the_data_directory_with_private_files_and_a_safe_import_path(
    server: Server,
) -> None:
    server.stop(server.start(), signal.SIGTERM)

    for name in ("api", "dispatcher", "engine"):
        started = server.started_with(name)
        assert started["folder"] == str(server.data)
        assert started["umask"] == 0o077
        assert started["environment"]["PYTHONSAFEPATH"] == "1"
    for path in server.data.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_data_directory_that_others_can_read_prints_a_warning(server: Server) -> None:
    server.data.mkdir(mode=0o700)
    server.stop(server.start(), signal.SIGTERM)
    assert "warning: other users" not in server.said

    server.data.chmod(0o755)
    server.stop(server.start(), signal.SIGTERM)
    assert f"can open {server.data} (mode 755)" in server.said
    assert f"run `chmod 700 {server.data}`" in server.said


@pytest.mark.parametrize("command", ["serve", "server backup there", "engine models --help"])
def test_a_module_in_the_current_folder_never_replaces_one_of_ours(
    server: Server, command: str
) -> None:
    here = server.folder / "here"
    here.mkdir()
    for module in ("app", "dreadnode_api", "dreadnode_engine", "dreadnode_runtime", "json"):
        (here / f"{module}.py").write_text(f"open({str(server.folder / 'ran')!r}, 'w')")
    server.data.mkdir(mode=0o700)
    # A database that the real API refuses ends `dn serve` early.
    url = "nonsense://x" if command == "serve" else ""

    ended = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "dreadnode", *command.split()),
            *("--data-dir", server.data),
            *(["--port", str(server.port)] if command == "serve" else []),
        ],
        cwd=here,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(server.folder),
            **({"DREADNODE_DATABASE_URL": url} if url else {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode in (0, 1), ended.stderr
    assert not (server.folder / "ran").exists()
