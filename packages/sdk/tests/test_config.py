"""Which server is asked, with which key: flags, environment, profiles."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from dreadnode.config import Connection, Profile, Profiles, Scope, config_path, resolve, same_server
from dreadnode.errors import ConfigError, InputError

WORK = Profile("work", "https://work.test", "dn_work", "acme", "research", "ada")
HOME = Profile("home", "http://localhost:8799", "dn_home", "main", "default")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which `work` and `home` are saved, and `home` is active."""
    environ = {"DREADNODE_CONFIG_DIR": str(tmp_path)}
    for profile in (WORK, HOME):
        Profiles.load(environ).save(profile)
    return environ


def test_the_active_profile_is_used_by_default(environ: dict[str, str]) -> None:
    assert resolve(environ=environ) == Connection(
        HOME.url, "dn_home", Scope("main", "default"), "home"
    )


def test_a_named_profile_overrides_the_whole_environment(
    environ: dict[str, str],
) -> None:
    environ |= {
        "DREADNODE_SERVER": "https://evil.test",
        "DREADNODE_API_KEY": "dn_env",
        "DREADNODE_ORGANIZATION": "other",
    }

    assert resolve(profile="work", environ=environ) == Connection(
        WORK.url, "dn_work", Scope("acme", "research"), "work"
    )


def test_flags_override_the_environment_and_the_environment_overrides_profiles(
    environ: dict[str, str],
) -> None:
    environ |= {"DREADNODE_ORGANIZATION": "env", "DREADNODE_WORKSPACE": "env"}

    assert resolve(organization="flag", environ=environ).scope == Scope("flag", "env")


@pytest.mark.parametrize("said", ["flag", "environment"])
def test_a_profiles_token_is_never_sent_to_another_server(
    environ: dict[str, str], said: str
) -> None:
    if said == "environment":
        environ["DREADNODE_SERVER"] = "https://evil.test"
    server = "https://evil.test" if said == "flag" else None

    connection = resolve(server=server, environ=environ)

    assert connection == Connection("https://evil.test", None, Scope(), None)


def test_the_environments_token_is_never_sent_to_another_server(
    environ: dict[str, str],
) -> None:
    environ |= {"DREADNODE_SERVER": "https://work.test", "DREADNODE_API_KEY": "dn_env"}

    assert resolve(server="https://evil.test", environ=environ).api_key is None
    assert resolve(environ=environ).api_key == "dn_env"


def test_a_token_alone_in_the_environment_is_sent_to_the_chosen_server(
    environ: dict[str, str],
) -> None:
    environ["DREADNODE_API_KEY"] = "dn_env"

    assert resolve(server="https://new.test", environ=environ).api_key == "dn_env"


def test_an_address_selects_the_profile_saved_for_it(environ: dict[str, str]) -> None:
    connection = resolve(server="http://127.0.0.1:8799/", environ=environ)

    assert (connection.profile, connection.api_key) == ("home", "dn_home")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://localhost:8799", "http://127.0.0.1:8799/", True),
        ("http://[::1]:8799", "http://127.0.0.1:8799/api/v1", True),
        ("https://a.test", "https://A.test:443", True),
        ("https://a.test", "http://a.test", False),
        ("https://a.test", "https://a.test.evil.test", False),
        ("http://127.0.0.1:8799", "http://127.0.0.1:8800", False),
        ("https://a.test/one", "https://a.test/two", False),
    ],
)
def test_two_addresses_are_one_server_only_if_host_port_and_path_agree(
    one: str, other: str, same: bool
) -> None:
    assert same_server(one, other) is same


def test_there_is_no_default_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`dn serve`"):
        resolve(environ={"DREADNODE_CONFIG_DIR": str(tmp_path)})


@pytest.mark.parametrize("flag", [{"server": "http://a"}, {"api_key": "dn_x"}])
def test_a_profile_excludes_a_server_and_a_token(
    environ: dict[str, str], flag: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="leave out"):
        resolve(profile="work", environ=environ, **flag)


def test_saving_keeps_unknown_fields(environ: dict[str, str]) -> None:
    path = config_path(environ)
    content = yaml.safe_load(path.read_text())
    content["theme"] = "dark"
    content["servers"]["home"]["default_project"] = "p"
    path.write_text(yaml.safe_dump(content))

    Profiles.load(environ).save(HOME)

    assert yaml.safe_load(path.read_text()) == content


def test_the_file_with_the_tokens_is_readable_only_by_its_owner(environ: dict[str, str]) -> None:
    path = config_path(environ)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["config.yaml"]


def test_removing_the_active_profile_makes_another_one_active(environ: dict[str, str]) -> None:
    Profiles.load(environ).remove("home")

    assert Profiles.load(environ).active == "work"
    Profiles.load(environ).remove("work")
    assert Profiles.load(environ).active is None


@pytest.mark.parametrize("text", ["servers: [", "- a\n- b\n", "servers: 3", "\x00", "servers: [1]"])
def test_a_file_without_profiles_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"config\.yaml"):
        resolve(environ={"DREADNODE_CONFIG_DIR": str(tmp_path)})


@pytest.mark.parametrize(
    "url", ["", "localhost:8799", "ftp://a", "http://", "http://user:word@a.test", "http://a:b"]
)
def test_an_invalid_address_is_refused(tmp_path: Path, url: str) -> None:
    environ = {"DREADNODE_CONFIG_DIR": str(tmp_path)}

    with pytest.raises(ConfigError):
        resolve(server=url, environ=environ)
