"""`dn serve`: the API, the dispatcher and the engine on one data directory.

This module imports none of them. It starts them as processes, passes their addresses in the
environment, and leaves them to `dreadnode.local_server.supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dreadnode.config import Profile, Profiles, config_path
from dreadnode.errors import ServeError, reason_of
from dreadnode.local_server.python import ISOLATED, module_command
from dreadnode.local_server.supervisor import Program, Supervisor

HOSTED_TINKER = "https://tinker.thinkingmachines.dev/services/tinker-prod"
"""The address that is used with a Tinker key alone."""

_LOCAL = "127.0.0.1"
_PORT_WAIT_SECONDS = 20.0
"""Seconds for which the processes of a killed server may still hold their ports."""

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Commands:
    """The commands of the processes, without their arguments."""

    app: Sequence[str] = module_command("dreadnode_api")
    engine: Sequence[str] = module_command("dreadnode_engine")


@dataclass(frozen=True)
class Options:
    """The options of a server.

    Attributes:
        data_dir: The folder with everything that the server keeps: database, datasets, checkpoints,
            keys, logs.
        host: The address to listen on.
        port: The port of the API.
        engine_port: The port of the engine, which always listens on this machine only.
        models: `ID=PATH` for each base model with local weights.
        memory_gib: Memory that the engine may use; the engine's default if None.
        dtype: Data type of the base weights; the engine's default if None.
        database_url: The database; SQLite in the data directory if None.
        runner: The runner of sandboxes; DREADNODE_RUNNER if None.
        ray_address: The dashboard of the Ray cluster, for the runner `ray`.
        on_stop: What happens to running jobs when the server stops; DREADNODE_ON_STOP if None.
            `stop` saves and queues them again; `leave` keeps them running for the next start.
    """

    data_dir: Path
    host: str = _LOCAL
    port: int = 8799
    engine_port: int = 8800
    models: tuple[str, ...] = ()
    memory_gib: float | None = None
    dtype: str | None = None
    database_url: str | None = None
    runner: str | None = None
    ray_address: str | None = None
    on_stop: str | None = None

    @property
    def url(self) -> str:
        """The address of the API from this machine."""
        host = _LOCAL if self.host in ("0.0.0.0", "::", "localhost") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def serve(
    options: Options,
    *,
    say: Callable[[str], None],
    show: Callable[[str], None],
    commands: Commands = Commands(),
    environ: Environment | None = None,
) -> None:
    """Serve until a signal stops it.

    Args:
        options: The options of the server.
        say: Prints a message.
        show: Prints what the user must keep: the token of the first start.
        commands: The commands of the processes.
        environ: The environment; this process's own if None.

    Raises:
        ServeError: The directory or a port is not available, or a process does not start.
    """
    environ = dict(os.environ if environ is None else environ)
    # For this process and all that it starts: only the owner reads what they write.
    os.umask(0o077)
    with _locked(options.data_dir) as was_killed:
        _warn_of_open_permissions(options.data_dir, say)
        hosted = bool(environ.get("TINKER_BASE_URL") or environ.get("TINKER_API_KEY"))
        ports = {"--port": (options.host, options.port)}
        if not hosted:
            ports["--engine-port"] = (_LOCAL, options.engine_port)
        for flag, (host, port) in ports.items():
            _check_port(host, port, flag, wait_seconds=_PORT_WAIT_SECONDS if was_killed else 0.0)
        environment = _environment(options, environ, hosted=hosted)
        first = _initialise(options, commands, environment)
        if first["created"]:
            _show_first_start(options, first, environ, say, show)
        asyncio.run(_run(options, commands, environment, hosted=hosted, say=say))


def _environment(options: Options, environ: Environment, *, hosted: bool) -> dict[str, str]:
    """Return the environment of every process; other users could read keys in its arguments."""
    settings = {
        "DREADNODE_DATA_DIR": str(options.data_dir),
        # Behind a proxy, or for sandboxes on other machines, the address differs.
        "DREADNODE_PUBLIC_URL": environ.get("DREADNODE_PUBLIC_URL") or options.url,
        "PYTHONUNBUFFERED": "1",
        **ISOLATED,
    }
    chosen = {
        "DREADNODE_DATABASE_URL": options.database_url,
        "DREADNODE_RUNNER": options.runner,
        "DREADNODE_RAY_ADDRESS": options.ray_address,
        "DREADNODE_ON_STOP": options.on_stop,
    }
    settings |= {name: value for name, value in chosen.items() if value}
    if hosted:
        settings["TINKER_BASE_URL"] = environ.get("TINKER_BASE_URL") or HOSTED_TINKER
    else:
        settings["TINKER_BASE_URL"] = f"http://{_LOCAL}:{options.engine_port}"
        settings["DREADNODE_ENGINE_KEY"] = environ.get("DREADNODE_ENGINE_KEY") or _engine_key(
            options.data_dir
        )
    # The token is the client's; the server does not use it.
    inherited = {name: value for name, value in environ.items() if name != "DREADNODE_API_KEY"}
    return inherited | settings


async def _run(
    options: Options,
    commands: Commands,
    environment: Environment,
    *,
    hosted: bool,
    say: Callable[[str], None],
) -> None:
    program = partial(Program, environment=environment, folder=options.data_dir)
    serve = [*commands.app, "serve", "--host", options.host, "--port", str(options.port)]
    api = program("api", serve, ready="api ready on")
    engine = program("engine", _engine_command(options, commands), ready="engine ready on")
    # The dispatcher stops its sandboxes before it stops itself.
    dispatcher = program(
        "dispatcher", [*commands.app, "dispatch"], ready="dispatcher ready", stop_within=45.0
    )
    logs = options.data_dir / "logs"
    supervisor = Supervisor([[api] if hosted else [engine, api], [dispatcher]], logs, say=say)
    loop = asyncio.get_running_loop()
    leaves = environment.get("DREADNODE_ON_STOP") == "leave"
    jobs = "keep running until the next start adopts them" if leaves else "return to the queue"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _stop, supervisor, f"stopping; running jobs {jobs}", say)
    say(f"starting in {options.data_dir}" + ("" if hosted else "; the engine takes a few seconds"))
    if options.host not in (_LOCAL, "localhost", "::1"):
        say(
            f"warning: other machines can reach {options.host} without TLS; put a TLS proxy in "
            "front of it"
        )
    await supervisor.run(
        when_ready=lambda: say(f"ready on {options.url} (logs in {logs}; Ctrl-C stops it)")
    )
    say("stopped")


def _stop(supervisor: Supervisor, message: str, say: Callable[[str], None]) -> None:
    say(message)
    supervisor.stop()


def _engine_command(options: Options, commands: Commands) -> list[str]:
    command = [*commands.engine, "serve", "--data-dir", str(options.data_dir)]
    command += ["--host", _LOCAL, "--port", str(options.engine_port)]
    for model in options.models:
        command += ["--model", model]
    if options.memory_gib is not None:
        command += ["--memory-gib", f"{options.memory_gib:g}"]
    if options.dtype is not None:
        command += ["--dtype", options.dtype]
    return command


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[bool]:
    """Lock the data directory, and yield whether the previous server was killed.

    Raises:
        ServeError: The directory cannot be written, or another server uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data_dir / "serve.lock").open("a+")
    except OSError as error:
        raise ServeError(
            f"the data directory {data_dir} cannot be written: {reason_of(error)}; choose another "
            "with `--data-dir`"
        ) from error
    with file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServeError(
                f"another `dn serve` (process {holder}) uses {data_dir}; stop it, or choose "
                "another directory with `--data-dir`"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield bool(holder)
        finally:
            # A killed server leaves its process id in the file.
            file.truncate(0)


def _warn_of_open_permissions(data_dir: Path, say: Callable[[str], None]) -> None:
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if mode & 0o077:
        say(
            f"warning: other users of this machine can open {data_dir} (mode {mode:o}), which has "
            f"keys and data; run `chmod 700 {data_dir}`"
        )


def _check_port(host: str, port: int, flag: str, *, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while (reason := _port_error(host, port)) is not None:
        if time.monotonic() >= deadline:
            raise ServeError(
                f"port {port} on {host} cannot be used: {reason}; choose another with `{flag}`"
            )
        time.sleep(0.2)


def _port_error(host: str, port: int) -> str | None:
    """Return why a server cannot listen there, or None."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Like a server: connections that were just closed do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return reason_of(error)
    return None


def _engine_key(data_dir: Path) -> str:
    """Return the engine's master key; the first start writes it to a file only its owner reads."""
    path = data_dir / "engine.key"
    with contextlib.suppress(FileNotFoundError):
        if key := path.read_text().strip():
            return key
    key = f"tml-{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{key}\n")
    return key


def _initialise(options: Options, commands: Commands, environment: Environment) -> dict[str, Any]:
    """Migrate the database; the first start also creates an organization and a token.

    Returns:
        `created`, and if it is true `organization`, `workspace` and `token`.
    """
    done = subprocess.run(
        [*commands.app, "init"],
        env=dict(environment),
        cwd=options.data_dir,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    with contextlib.suppress(ValueError, IndexError):
        if done.returncode == 0:
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            if isinstance(answer, dict):
                return answer
    lines = done.stderr.strip().splitlines()[-12:]
    raise ServeError(
        "\n".join(["the database could not be prepared:", *(f"  {line}" for line in lines)])
    )


def _show_first_start(
    options: Options,
    first: Mapping[str, Any],
    environ: Environment,
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """Show the token of the first start once, and save it as a profile if there is none yet."""
    say(
        f"first start: created organization `{first['organization']}`, workspace "
        f"`{first['workspace']}` and a token, which is shown only now:"
    )
    show(
        f"export DREADNODE_SERVER={options.url} DREADNODE_API_KEY={first['token']} "
        f"DREADNODE_ORGANIZATION={first['organization']} DREADNODE_WORKSPACE={first['workspace']}"
    )
    path = config_path(environ)
    if path.exists():
        say(f"{path} exists and stays unchanged; `dn login --server {options.url}` adds a profile")
        return
    Profiles.load(environ).save(
        Profile(
            name="local",
            url=options.url,
            api_key=first["token"],
            organization=first["organization"],
            workspace=first["workspace"],
        )
    )
    say(f"saved as profile `local` in {path}; `dn` uses it from now on")
