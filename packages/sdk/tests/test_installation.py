"""`dn serve` refuses to start without a package that the server needs, and names the command."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from dreadnode.errors import ServeError
from dreadnode.local_server import installation
from dreadnode.local_server.installation import require_installation

ROOT = Path(__file__).resolve().parents[3]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    def find(name: str) -> Any:
        return None if name == package else importlib.util.find_spec(name)

    monkeypatch.setattr(installation, "find_spec", find)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("dreadnode_api", "pip install dreadnode-training-api"),
        ("dreadnode_runtime", "pip install dreadnode-training-runtime"),
        ("dreadnode_engine", "pip install dreadnode-training-engine"),
        ("tinker_cookbook", "pip install --no-deps tinker-cookbook=="),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str, command: str
) -> None:
    without(monkeypatch, package)

    with pytest.raises(ServeError, match=f"`{package}` is not installed here.*{command}"):
        require_installation(runtime=True, engine=True)


def test_packages_used_on_another_machine_need_not_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "dreadnode_engine")

    require_installation(runtime=True, engine=False)


def test_the_install_command_names_the_tested_version() -> None:
    pinned = (ROOT / "requirements-nodeps.txt").read_text()

    assert installation.RUNTIME["tinker_cookbook"].split()[-1] in pinned
