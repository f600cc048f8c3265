"""Servers for the tests, gone when these end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .server import STOP_WITHIN, Server


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Callable[[], Server]]:
    """Make servers that are gone when the module ends."""
    made: list[Server] = []

    def make() -> Server:
        made.append(Server(tmp_path_factory.mktemp("server"), tiny_model))
        return made[-1]

    yield make
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.process.terminate()
            server.process.wait(STOP_WITHIN)


@pytest.fixture(scope="module")
def server(servers: Callable[[], Server]) -> Server:
    """A server that is ready, shared by the tests of a module."""
    made = servers()
    made.start()
    return made
