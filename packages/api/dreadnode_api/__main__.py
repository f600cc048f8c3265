"""The processes of the service: `python -m dreadnode_api init | serve | dispatch | organization`.

Settings come from the environment; see `settings.py`.
"""

import argparse
import asyncio
import json
import logging
import re
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dreadnode_api import logs, migrations
from dreadnode_api import parent_watch as lifeline
from dreadnode_api.auth.people import create_organization
from dreadnode_api.auth.service import create_first
from dreadnode_api.db import Database
from dreadnode_api.errors import ApiError
from dreadnode_api.http.patterns import EMAIL, NEW_SLUG, ORGANIZATION_NAME, USERNAME, explain
from dreadnode_api.jobs.dispatcher import Dispatcher, host_id
from dreadnode_api.maintenance.background import beside
from dreadnode_api.sandbox import runners, trackers
from dreadnode_api.settings import Settings, SettingsError

log = logging.getLogger("dreadnode_api")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the processes and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dreadnode_api", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init", help="migrate the database; on the first start make what it needs")
    serve = commands.add_parser("serve", help="answer requests")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8799)
    commands.add_parser("dispatch", help="work off the queue")
    backup = commands.add_parser("backup", help="copy everything that the server keeps")
    backup.add_argument("target", type=Path, help="a folder that does not exist yet")
    organization = commands.add_parser("organization", help="make another organization")
    organization.add_argument("key", help="lower-case letters, digits and hyphens")
    organization.add_argument("--name", help="for people; the key if not given")
    organization.add_argument("--username", required=True, help="its first administrator")
    organization.add_argument("--email", required=True)
    given = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        trackers.check_settings(settings)
        logs.configure(settings.log_format, settings.secrets)
        if given.command == "init":
            return asyncio.run(_init(settings))
        if given.command == "backup":
            return _backup(settings, given.target)
        if given.command == "organization":
            return asyncio.run(_organization(settings, given))
        if given.command == "serve":
            return asyncio.run(_serve(settings, given.host, given.port))
        return asyncio.run(_dispatch(settings))
    except (SettingsError, migrations.SchemaError, ApiError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


async def _init(settings: Settings) -> int:
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url)
    try:
        await migrations.upgrade(database)
        async with database.writing() as session:
            key = await create_first(session)
    finally:
        await database.dispose()
    answer = {
        "created": key is not None,
        "organization": "main",
        "workspace": "default",
        "token": key,
    }
    print(json.dumps(answer))  # noqa: T201
    return 0


async def _organization(settings: Settings, given: argparse.Namespace) -> int:
    for value, pattern in (
        (given.key, NEW_SLUG),
        (given.username, USERNAME),
        (given.email, EMAIL),
        (given.name or given.key, ORGANIZATION_NAME),
    ):
        if not re.fullmatch(pattern, value) or value.endswith("\n"):
            raise SettingsError(f"`{value}` cannot be taken: {explain(pattern)}")
    database = Database(settings.database_url)
    try:
        await migrations.check(database)
        async with database.writing() as session:
            made, key = await create_organization(
                session, given.key, given.name or given.key, given.username, given.email
            )
    finally:
        await database.dispose()
    print(json.dumps({"organization": made.slug, "workspace": "default", "token": key}))  # noqa: T201
    return 0


def _backup(settings: Settings, target: Path) -> int:
    from dreadnode_api.maintenance.backup import back_up

    print(json.dumps(asdict(back_up(settings, target))))  # noqa: T201
    return 0


async def _serve(settings: Settings, host: str, port: int) -> int:
    # The dispatcher needs neither of these, and starts in half the time without them.
    import uvicorn

    from dreadnode_api.http.protocol import MAX_HEAD_BYTES, Protocol
    from dreadnode_api.main import create_app

    app = create_app(settings)
    await migrations.check(app.state.database)
    try:
        listener = socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise SettingsError(f"Port {port} on {host} cannot be used: {error.strerror}") from None
    # asyncio sets this only on sockets that name their protocol, which this one does not; without
    # it each answer waits some 40 ms for the client to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not settings.public_url.startswith("https:") and host not in (
        "127.0.0.1",
        "::1",
        "localhost",
    ):
        log.warning("listening on %s without TLS; put a proxy with TLS in front of it", host)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
            http=Protocol,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )

    def cut() -> None:
        server.should_exit = True

    lifeline.watch(cut)
    port = listener.getsockname()[1]
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not running.done():  # noqa: ASYNC110  (uvicorn has no event)
        await asyncio.sleep(0.01)
    if server.started:
        print(f"api ready on http://{host}:{port}", flush=True)  # noqa: T201
    await running
    return 0


async def _dispatch(settings: Settings) -> int:
    database = Database(settings.database_url)
    await migrations.check(database)
    runner = runners.create(settings)
    dispatcher = Dispatcher(settings, database, runner, host_id(settings.data_dir))
    stop, abandon = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Whoever watched over us is dead: leave the sandboxes to the next start.
    lifeline.watch(abandon.set)
    print("dispatcher ready", flush=True)  # noqa: T201
    async with beside(settings, database):
        await dispatcher.run(stop, abandon)
    await database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
