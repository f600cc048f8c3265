"""`dn login | logout | whoami`, and what is said when the server cannot be asked."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode.config import Profiles, config_path
from inline_snapshot import snapshot

Dn = Callable[[str], str]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment says about the server."""
    for name in ("SERVER", "API_KEY", "ORGANIZATION", "WORKSPACE"):
        monkeypatch.delenv(f"DREADNODE_{name}")


def folder_named_config(said: str) -> str:
    return said.replace(str(config_path().parent), "CONFIG")


@pytest.mark.usefixtures("dn", "nowhere")
class TestWithoutEnvironment:
    def test_a_command_without_a_server_is_refused(self, dn: Dn, api: Any) -> None:
        assert dn("train list") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: no server is set; start one on this machine with `dn serve`, or name one with `--server`, DREADNODE_SERVER, `dn login` or `dn profile use`
""")
        assert api.requests == []

    def test_dn_alone_says_what_to_do_without_a_server(self, dn: Dn, api: Any) -> None:
        assert dn("") == snapshot("""\
exit: 0
--- stdout
No server is set.
  dn serve               start one on this machine
  dn login --server URL  sign in to another one, with a token of it
`dn --help` lists all commands.
--- stderr
""")
        assert api.requests == []

    def test_a_login_saves_the_connection_of_later_commands(self, dn: Dn) -> None:
        said = dn("login dn_test --server http://server.test/ --save-as work")

        assert folder_named_config(said) == snapshot("""\
exit: 0
--- stdout
server        http://server.test
user          ada
email         ada@example.com
role          member
organization  main
workspace     default
profile       work
--- stderr
saved profile `work` in CONFIG/config.yaml
""")
        assert dn("train list").startswith("exit: 0")
        assert stat.S_IMODE(config_path().stat().st_mode) == 0o600

    def test_a_token_refused_by_the_server_is_not_saved(self, dn: Dn) -> None:
        assert dn("login dn_wrong --server http://server.test") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The key is not valid on this server
hint: `dn login` saves a token; `dn whoami` shows which one is used
""")
        assert not config_path().exists()

    def test_a_token_is_read_from_stdin_by_default(
        self, dn: Dn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("dn_test\n"))

        assert dn("login --server http://server.test").startswith("exit: 0")
        assert Profiles.load().get("server.test").api_key == "dn_test"

    def test_a_login_uses_the_server_of_the_environment(
        self, dn: Dn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DREADNODE_SERVER", "http://server.test")

        assert dn("login dn_test --save-as work").startswith("exit: 0")

        work = Profiles.load().get("work")
        assert (work.url, work.api_key) == ("http://server.test", "dn_test")

    def test_a_login_needs_a_server_and_a_token(
        self, dn: Dn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))

        said = dn("login dn_test") + dn("login --server http://server.test")

        assert said == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `--server` is missing, for instance `--server http://127.0.0.1:8799`
exit: 2
--- stdout
--- stderr
error: no token was given
""")

    def test_a_user_of_two_organizations_must_choose_one(self, dn: Dn, api: Any) -> None:
        api.organizations = ["main", "other"]
        flags = "--server http://server.test --api-key dn_test"

        assert dn(f"train list {flags}") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: no organization is set, and the token has access to `main`, `other`; name one with `--organization` or DREADNODE_ORGANIZATION
""")
        assert dn(f"train list {flags} --organization main").startswith("exit: 0")

    def test_a_logout_removes_the_profile(self, dn: Dn) -> None:
        dn("login dn_test --server http://server.test --save-as work")

        assert folder_named_config(dn("logout")) == snapshot("""\
exit: 0
--- stdout
--- stderr
deleted profile `work` of http://server.test
hint: its token is still valid; `dn token revoke` revokes one
""")
        assert "dn_test" not in config_path().read_text()
        assert folder_named_config(dn("logout")) == snapshot("""\
exit: 1
--- stdout
--- stderr
error: no profile in CONFIG/config.yaml is active; name one
""")
        assert folder_named_config(dn("logout work")) == snapshot("""\
exit: 1
--- stdout
--- stderr
error: profile `work` is not in CONFIG/config.yaml; profiles: none
""")


def test_whoami_shows_server_user_and_scope(dn: Dn) -> None:
    assert dn("whoami") == snapshot("""\
exit: 0
--- stdout
server        http://server.test
user          ada
email         ada@example.com
role          member
organization  main
workspace     default
--- stderr
""")


def test_a_wrong_token_is_one_sentence_and_a_hint(dn: Dn) -> None:
    assert dn("whoami --server http://server.test --api-key dn_wrong") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The key is not valid on this server
hint: `dn login` saves a token; `dn whoami` shows which one is used
""")


def test_an_unreachable_server_is_one_sentence(dn: Dn, api: Any) -> None:
    api.failures = [httpx2.ConnectError("refused")] * 9

    assert dn("train list") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: no server answers at http://server.test; start one with `dn serve`, or name another with `--server`
""")


def test_a_response_of_another_service_is_one_sentence(dn: Dn, api: Any) -> None:
    page = httpx2.Response(200, html="<html>Welcome to nginx!</html>")
    api.failures = [page, *[httpx2.Response(502, html="<html>Bad gateway</html>")] * 4]

    assert dn("train list") + dn("train list") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: the response to GET /org/main/ws/default/training/jobs is not what this client expects; is server.test a dreadnode server of a matching version?
exit: 1
--- stdout
--- stderr
error: the server responded with 502 and no message; is this the right address?
""")


def test_an_unknown_profile_is_named(dn: Dn) -> None:
    assert folder_named_config(dn("train list --profile gone")) == snapshot("""\
exit: 1
--- stdout
--- stderr
error: profile `gone` is not in CONFIG/config.yaml; profiles: none
""")


def test_an_invalid_address_is_refused(dn: Dn) -> None:
    assert dn("train list --server localhost:8799") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: `localhost:8799` is not a server address such as https://training.example.com
""")


def test_flags_that_exclude_each_other_are_wrong_arguments(dn: Dn) -> None:
    assert dn("train list --profile a --server http://b") == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `--profile` already has a server and a token; leave out `--server`
""")


def test_an_unknown_command_gets_a_suggestion(dn: Dn) -> None:
    said = dn("trian list")

    assert said.startswith("exit: 2\n")
    assert 'error: Unknown command "trian". Did you mean "train"?' in said


def test_a_broken_profile_file_is_named(dn: Dn, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(config_path()).write_text("active: [")

    assert folder_named_config(dn("train list")) == snapshot("""\
exit: 1
--- stdout
--- stderr
error: CONFIG/config.yaml is not valid YAML; repair it, or remove it and log in again
""")


@pytest.mark.usefixtures("dn", "nowhere")
class TestProfiles:
    def test_profiles_are_listed_and_switched(self, dn: Dn) -> None:
        dn("login dn_test --server http://server.test --save-as work")
        dn("login dn_test --server http://other.test --save-as home")

        said = dn("profile list") + dn("profile use work") + dn("profile use gone")

        assert folder_named_config(said) == snapshot("""\
exit: 0
--- stdout
   PROFILE  SERVER              USER  ORGANIZATION  WORKSPACE
   work     http://server.test  ada   main          default
*  home     http://other.test   ada   main          default
--- stderr
exit: 0
--- stdout
--- stderr
profile `work` is active: http://server.test
exit: 1
--- stdout
--- stderr
error: profile `gone` is not in CONFIG/config.yaml; profiles: `work`, `home`
""")
        assert Profiles.load().active == "work"

    def test_a_logout_keeps_the_other_profiles(self, dn: Dn) -> None:
        dn("login dn_test --server http://server.test --save-as work")
        dn("login dn_test --server http://other.test --save-as home")

        said = dn("logout")

        assert "profile `work` is active now" in said
        assert dn("train list").startswith("exit: 0")
        assert Profiles.load().names == ["work"]

    @pytest.mark.parametrize("flag", ["--workspace", "--organization"])
    def test_a_login_to_an_unknown_scope_is_refused_and_saves_nothing(
        self, dn: Dn, flag: str
    ) -> None:
        said = dn(f"login dn_test --server http://server.test {flag} NOPE")

        assert said.startswith("exit: 1")
        assert "`NOPE` is not" in said
        assert not config_path().exists()


def test_dn_alone_says_what_to_do_after_a_login_without_and_with_jobs(dn: Dn, api: Any) -> None:
    some, api.jobs = api.jobs, []
    new = dn("")
    api.jobs = some

    assert new + dn("") == snapshot("""\
exit: 0
--- stdout
Signed in to http://server.test as ada, workspace main/default.
  dn train catalog                                            choose a base model
  dn train sft --model MODEL --dataset rows.jsonl --rehearse  rehearse a job for free
  dn train init sft                                           write a job file with every setting
`dn --help` lists all commands.
--- stderr
exit: 0
--- stdout
Signed in to http://server.test as ada, workspace main/default.
  dn train list                                    list the jobs
  dn train watch last                              follow your newest job
  dn train plot last                               plot its metrics
  dn train sft --model MODEL --dataset rows.jsonl  submit another one
`dn --help` lists all commands.
--- stderr
""")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            httpx2.Response(
                401, json={"code": 401, "type": "authentication_error", "detail": "no"}
            ),
            "You are not signed in to http://server.test.",
        ),
        (httpx2.ConnectError("no"), "The server http://server.test does not respond."),
    ],
)
def test_dn_alone_says_why_it_cannot_continue(dn: Dn, api: Any, failure: Any, said: str) -> None:
    api.failures = [failure]

    shown = dn("")

    assert shown.startswith(f"exit: 0\n--- stdout\n{said}\n  dn ")
    assert "`dn --help` lists all commands." in shown
