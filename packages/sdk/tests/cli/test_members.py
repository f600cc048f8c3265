"""`dn member` and `dn workspace`, by what they send and what they say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import httpx2
import pytest
from dreadnode.cli.main import run
from inline_snapshot import snapshot

Dn = Callable[[str], str]
NOW = "2026-11-22T03:00:00Z"
GRACE = {
    "id": "u-2",
    "username": "grace",
    "email": "grace@example.com",
    "full_name": None,
    "role": "member",
    "created_at": NOW,
}
TOKEN = {
    "id": "t-1",
    "name": "first key",
    "role": "member",
    "hint": "dn_abcd…",
    "username": "grace",
    "created_at": NOW,
    "expires_at": None,
    "revoked_at": None,
    "token": "dn_secret",
}
NIGHT = {"id": "w-2", "key": "night", "name": "Night shift", "is_default": False}


@pytest.fixture
def sent() -> list[httpx2.Request]:
    return []


@pytest.fixture
def dn(
    sent: list[httpx2.Request], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Dn:
    for name, value in {
        "SERVER": "http://server.test",
        "API_KEY": "dn_test",
        "ORGANIZATION": "main",
        "WORKSPACE": "default",
    }.items():
        monkeypatch.setenv(f"DREADNODE_{name}", value)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        method, path = request.method, request.url.path.removeprefix("/api/v1/org/main")
        if path == "/members":
            both = {"member": GRACE, "token": TOKEN}
            return httpx2.Response(200, json=both if method == "POST" else {"items": [GRACE]})
        if path == "/ws":
            return httpx2.Response(200, json=NIGHT if method == "POST" else [NIGHT])
        return httpx2.Response(200, json=GRACE)

    def call(line: str) -> str:
        code = run(shlex.split(line), transport=httpx2.MockTransport(answer))
        said = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{said.out}--- stderr\n{said.err}"

    return call


def test_a_new_member_gets_a_token_and_only_the_token_goes_to_stdout(
    dn: Dn, sent: list[httpx2.Request]
) -> None:
    assert dn("member add grace --email grace@example.com --days 7") == snapshot("""\
exit: 0
--- stdout
dn_secret
--- stderr
added grace with the role member and this token:
""")
    assert json.loads(sent[0].content) == {
        "username": "grace",
        "email": "grace@example.com",
        "role": "member",
        "expires_in_days": 7.0,
    }


@pytest.mark.parametrize(
    ("given", "days"), [("7", 7.0), ("12h", 0.5), ("1d12h", 1.5), ("0.25", 0.25)]
)
def test_common_notations_of_a_duration_are_read(
    dn: Dn, sent: list[httpx2.Request], given: str, days: float
) -> None:
    dn(f"member add grace --email grace@example.com --days {given}")

    assert json.loads(sent[0].content)["expires_in_days"] == days


@pytest.mark.parametrize("given", ["soon", "0", "-1", "7 weeks", "nan", "1h soon"])
def test_an_invalid_duration_is_refused_with_its_flag(
    dn: Dn, sent: list[httpx2.Request], given: str
) -> None:
    said = dn(f"member add grace --email grace@example.com '--days={given}'")

    assert (
        "error: `--days` must be a number of days, above 0, or a duration such as `90s`, `1h30m` "
        f"or `7d`, not `{given}`\n"
    ) in said
    assert sent == []


def test_members_are_listed_by_name(dn: Dn) -> None:
    said = dn("member list")

    assert "USER" in said
    assert "grace@example.com" in said


@pytest.mark.parametrize(
    ("line", "method", "body"),
    [
        ("member role grace reader", "PATCH", b'{"role": "reader"}'),
        ("member remove grace", "DELETE", b""),
    ],
)
def test_a_member_is_identified_by_the_user_name(
    dn: Dn, sent: list[httpx2.Request], line: str, method: str, body: bytes
) -> None:
    assert dn(line).startswith("exit: 0")
    assert (sent[0].method, sent[0].url.path) == (method, "/api/v1/org/main/members/grace")
    assert sent[0].content == body


def test_an_unknown_role_is_a_wrong_argument(dn: Dn, sent: list[httpx2.Request]) -> None:
    assert dn("member role grace owner").startswith("exit: 2")
    assert sent == []


def test_a_workspace_is_created_and_listed(dn: Dn, sent: list[httpx2.Request]) -> None:
    made = dn("workspace create night --name 'Night shift'")

    assert json.loads(sent[0].content) == {"key": "night", "name": "Night shift"}
    assert "Night shift" in made
    assert "night" in dn("workspace list")
