"""A server on this machine: API, dispatcher and engine, on one data directory.

Nothing of the three is imported here; they are started as processes, told where to find each other
by their environment, and watched by `dreadnode.local_server.supervisor`.
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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode.config import Profile, Profiles, config_path
from dreadnode.errors import ServeError
from dreadnode.local_server.supervisor import Program, Supervisor

HOSTED_TINKER = "https://tinker.thinkingmachines.dev/services/tinker-prod"
"""Where a Tinker key without an address belongs."""

_LOCAL = "127.0.0.1"
_PATIENCE = 20.0
"""Seconds for which the processes of a server that was killed may still hold their ports."""

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Commands:
    """What the processes are started with; their own arguments follow."""

    app: Sequence[str] = (sys.executable, "-m", "dreadnode_api")
    engine: Sequence[str] = (sys.executable, "-m", "dreadnode_engine")


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        data_dir: The folder that keeps everything: database, datasets, checkpoints, keys, logs.
        host: The address to listen on.
        port: The API's port.
        engine_port: The engine's port, always on this machine alone.
        models: `ID=PATH` for each base model whose weights are at hand.
        database_url: The database, if not SQLite in the data directory.
        runner: What starts sandboxes, if not what DREADNODE_RUNNER names.
        ray_address: The dashboard of the Ray cluster for the runner `ray`.
        on_stop: What becomes of running jobs, if not what DREADNODE_ON_STOP says: `stop` saves them
            and puts them back into the queue, `leave` has the next start adopt them.
    """

    data_dir: Path
    host: str = _LOCAL
    port: int = 8799
    engine_port: int = 8800
    models: tuple[str, ...] = ()
    database_url: str | None = None
    runner: str | None = None
    ray_address: str | None = None
    on_stop: str | None = None

    @property
    def url(self) -> str:
        """Where the API is found from this machine."""
        host = _LOCAL if self.host in ("0.0.0.0", "::", "localhost") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def serve(
    options: Options,
    *,
    say: Callable[[str], None],
    tell: Callable[[str], None],
    commands: Commands = Commands(),
    environ: Environment | None = None,
) -> None:
    """Serve until a signal says to stop.

    Args:
        options: How.
        say: Tells a person what happens.
        tell: Shows what the person must keep: the first start's token.
        commands: What the processes are started with.
        environ: The environment; that of this process if None.

    Raises:
        ServeError: The directory or a port cannot be had, or a process does not start.
    """
    environ = dict(os.environ if environ is None else environ)
    with _locked(options.data_dir) as was_killed:
        hosted = bool(environ.get("TINKER_BASE_URL") or environ.get("TINKER_API_KEY"))
        ports = {"--port": (options.host, options.port)}
        if not hosted:
            ports["--engine-port"] = (_LOCAL, options.engine_port)
        for flag, (host, port) in ports.items():
            _check_port(host, port, flag, patience=_PATIENCE if was_killed else 0.0)
        environment = _environment(options, environ, hosted=hosted)
        first = _initialise(commands, environment)
        if first["created"]:
            _introduce(options, first, environ, say, tell)
        asyncio.run(_run(options, commands, environment, hosted=hosted, say=say))


def _environment(options: Options, environ: Environment, *, hosted: bool) -> dict[str, str]:
    """Return what every process is told; a key among its arguments could be read by others."""
    settings = {
        "DREADNODE_DATA_DIR": str(options.data_dir),
        # Behind a proxy, or for sandboxes on other machines, it is another.
        "DREADNODE_PUBLIC_URL": environ.get("DREADNODE_PUBLIC_URL") or options.url,
        "PYTHONUNBUFFERED": "1",
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
    # What a person's own client uses is nothing to the server.
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
    api = Program(
        "api",
        [*commands.app, "serve", "--host", options.host, "--port", str(options.port)],
        environment,
        ready="api ready on",
    )
    engine = Program(
        "engine", _engine_command(options, commands), environment, ready="engine ready on"
    )
    # The dispatcher ends its sandboxes before it ends itself.
    dispatcher = Program(
        "dispatcher",
        [*commands.app, "dispatch"],
        environment,
        ready="dispatcher ready",
        stop_within=45.0,
    )
    logs = options.data_dir / "logs"
    supervisor = Supervisor([[api] if hosted else [engine, api], [dispatcher]], logs, say=say)
    loop = asyncio.get_running_loop()
    leaves = environment.get("DREADNODE_ON_STOP") == "leave"
    jobs = "go on, and the next start adopts them" if leaves else "go back to the queue"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _stop, supervisor, f"stopping; running jobs {jobs}", say)
    say(f"starting in {options.data_dir}" + ("" if hosted else "; the engine takes a few seconds"))
    if options.host not in (_LOCAL, "localhost", "::1"):
        say(
            f"warning: {options.host} can be reached from outside of this machine, without TLS; "
            "put a proxy that speaks TLS before it"
        )
    await supervisor.run(
        when_ready=lambda: say(f"ready on {options.url} (logs in {logs}; Ctrl-C stops it)")
    )
    say("stopped")


def _stop(supervisor: Supervisor, sentence: str, say: Callable[[str], None]) -> None:
    say(sentence)
    supervisor.stop()


def _engine_command(options: Options, commands: Commands) -> list[str]:
    command = [*commands.engine, "serve", "--data-dir", str(options.data_dir)]
    command += ["--host", _LOCAL, "--port", str(options.engine_port)]
    for model in options.models:
        command += ["--model", model]
    return command


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[bool]:
    """Hold the data directory; yields whether the server before this one was killed.

    Raises:
        ServeError: It cannot be written, or another server holds it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data_dir / "serve.lock").open("a+")
    except OSError as error:
        raise ServeError(
            f"the data directory {data_dir} cannot be written: {_reason(error)}; choose another "
            "with `--data-dir`"
        ) from error
    with file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServeError(
                f"another `dn serve` (process {holder}) uses {data_dir}; stop that one, or choose "
                "another directory with `--data-dir`"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield bool(holder)
        finally:
            # A kill leaves the file as it is, and so the next start knows of it.
            file.truncate(0)


def _check_port(host: str, port: int, flag: str, *, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (reason := _taken(host, port)) is not None:
        if time.monotonic() >= deadline:
            raise ServeError(
                f"port {port} on {host} cannot be used: {reason}; choose another with `{flag}`"
            )
        time.sleep(0.2)


def _taken(host: str, port: int) -> str | None:
    """Return why nothing can listen there, or None."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do it: connections that have just been closed do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return _reason(error)
    return None


def _engine_key(data_dir: Path) -> str:
    """Return the engine's master key, made at the first start in a file that its owner reads."""
    path = data_dir / "engine.key"
    with contextlib.suppress(FileNotFoundError):
        if key := path.read_text().strip():
            return key
    key = f"tml-{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{key}\n")
    return key


def _initialise(commands: Commands, environment: Environment) -> dict[str, Any]:
    """Bring the database up to date, and at the first start make who may use the server.

    Returns:
        `created`, and then `organization`, `workspace` and `token`.
    """
    done = subprocess.run(
        [*commands.app, "init"],
        env=dict(environment),
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
    words = done.stderr.strip().splitlines()[-12:]
    raise ServeError("\n".join(["the database could not be prepared:", *(f"  {w}" for w in words)]))


def _introduce(
    options: Options,
    first: Mapping[str, Any],
    environ: Environment,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Show the first start's token, once, and keep it as a profile if there is none yet."""
    say(
        f"first start: made organization `{first['organization']}`, workspace "
        f"`{first['workspace']}` and a token, which is shown only now:"
    )
    tell(
        f"export DREADNODE_SERVER={options.url} DREADNODE_API_KEY={first['token']} "
        f"DREADNODE_ORGANIZATION={first['organization']} DREADNODE_WORKSPACE={first['workspace']}"
    )
    path = config_path(environ)
    if path.exists():
        say(f"{path} exists and is left as it is; `dn login --server {options.url}` adds this one")
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
    say(f"saved it as profile `local` in {path}, so `dn` in this account needs nothing more")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
