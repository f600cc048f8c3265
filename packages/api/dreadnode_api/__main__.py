"""The processes of the service: `python -m dreadnode_api init | serve | dispatch | …`.

The engine starts `endpoint`, which serves its `/v1`.

Settings come from the environment; see `settings.py`.
"""

import gc

# Imports make many objects and no garbage; looking for it takes a sixth of the start.
gc.disable()

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreadnode_api import logs, migrations, operator_commands, parent_watch
from dreadnode_api.auth.people import create_first
from dreadnode_api.db import Database
from dreadnode_api.errors import ApiError
from dreadnode_api.jobs.dispatcher import Dispatcher, host_id
from dreadnode_api.maintenance.background import run_in_background
from dreadnode_api.sandbox import runners, trackers
from dreadnode_api.settings import Settings, SettingsError

log = logging.getLogger("dreadnode_api")

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the processes and return its exit code."""
    # The files written here may contain tokens, datasets or weights.
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m dreadnode_api", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init", help="migrate the database; the first time, create its first token")
    serve = commands.add_parser("serve", help="serve the API")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8799)
    commands.add_parser("dispatch", help="run the queued jobs")
    endpoint = commands.add_parser("endpoint", help="serve `/v1` of an engine, which starts this")
    endpoint.add_argument("--socket", type=int, required=True, help="descriptor to listen on")
    backup = commands.add_parser("backup", help="copy all data of the server")
    backup.add_argument("target", type=Path, help="a folder that does not exist yet")
    operator_commands.add_parsers(commands)
    given = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        trackers.check_settings(settings)
        logs.configure(settings.log_format, settings.secrets)
        _check_data_dir(settings.data_dir)
        if given.command == "init":
            return asyncio.run(_init(settings))
        if given.command not in ("serve", "endpoint"):
            _collect_garbage()
        if given.command == "backup":
            return _backup(settings, given.target)
        if given.command == "serve":
            return _serve(settings, given.host, given.port)
        if given.command == "endpoint":
            return _serve_endpoint(settings, socket.socket(fileno=given.socket))
        if given.command == "dispatch":
            return asyncio.run(_dispatch(settings))
        print(json.dumps(asyncio.run(operator_commands.run(settings, given))))  # noqa: T201
    except (SettingsError, migrations.SchemaError, ApiError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _collect_garbage() -> None:
    """Collect garbage from now on, and not among what was imported."""
    gc.freeze()
    gc.enable()


def _check_data_dir(folder: Path) -> None:
    """Warn if other users of this machine may read or change the data directory."""
    try:
        mode = folder.stat().st_mode & 0o777
    except OSError:
        return
    if mode & 0o077:
        log.warning(
            "other users of this machine have access to the data directory %s (mode %03o); "
            "run `chmod 700 %s`",
            folder,
            mode,
            folder,
        )


async def _init(settings: Settings) -> int:
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    try:
        await migrations.upgrade(database)
        async with database.writing() as session:
            token = await create_first(session)
    finally:
        await database.dispose()
    answer = {
        "created": token is not None,
        "organization": "main",
        "workspace": "default",
        "token": token,
    }
    print(json.dumps(answer))  # noqa: T201
    return 0


def _backup(settings: Settings, target: Path) -> int:
    from dreadnode_api.maintenance.backup import back_up

    made = back_up(settings, target)
    print(json.dumps(asdict(made)))  # noqa: T201
    return 0


def _serve(settings: Settings, host: str, port: int) -> int:
    # The dispatcher needs none of these, and starts in half the time without them.
    import uvloop

    from dreadnode_api.main import create_app

    async def serve() -> None:
        app = create_app(settings)
        await migrations.check(app.state.database)
        listener = _listen(host, port)
        if not settings.uses_tls and host not in LOOPBACK:
            log.warning("listening on %s without TLS; put a proxy with TLS in front of it", host)
        address = f"http://{host}:{listener.getsockname()[1]}"
        await _run_server(settings, app, listener, f"api ready on {address}")

    uvloop.run(serve())
    return 0


def _serve_endpoint(settings: Settings, listener: socket.socket) -> int:
    import uvloop

    from dreadnode_api.engine_endpoint import create_app

    uvloop.run(_run_server(settings, create_app(settings), listener))
    return 0


async def _run_server(
    settings: Settings, app: Any, listener: socket.socket, ready: str | None = None
) -> None:
    """Serve APP on LISTENER until a signal or the end of the parent; print READY at the start."""
    import uvicorn

    from dreadnode_api.http import protocol

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        http=protocol.protocol(settings),
    )
    server = uvicorn.Server(config)
    _collect_garbage()
    parent_watch.watch(lambda: setattr(server, "should_exit", True))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not running.done():  # noqa: ASYNC110  (uvicorn has no event)
        await asyncio.sleep(0.01)
    if server.started and ready is not None:
        print(ready, flush=True)  # noqa: T201
    await running


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise SettingsError(f"Port {port} on {host} cannot be used: {error.strerror}") from None
    # The event loop sets this only on sockets that name their protocol, which this one does not.
    # Without it the body of a response waits until the client acknowledges the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _dispatch(settings: Settings) -> int:
    database = Database(settings.database_url)
    await migrations.check(database)
    runner = runners.create(settings)
    dispatcher = Dispatcher(settings, database, runner, host_id(settings.data_dir))
    stop, abandon = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The parent has ended: leave the sandboxes to the next start.
    parent_watch.watch(abandon.set)
    print("dispatcher ready", flush=True)  # noqa: T201
    async with run_in_background(settings, database):
        await dispatcher.run(stop, abandon)
    await database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
