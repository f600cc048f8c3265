"""Organizations, workspaces, members, and what their keys may do."""

import asyncio
import json
from typing import Any

import pytest

GRACE = {"username": "grace", "email": "grace@example.com", "role": "member"}


async def test_a_new_member_gets_a_token_that_is_shown_once(api: Any) -> None:
    made = (await api("POST", "/org/acme/members", json=GRACE)).json()

    who = (await api("GET", "/user", key=made["token"]["token"])).json()
    listed = await api("GET", "/org/acme/members", key="reader")

    assert who["username"] == "grace"
    assert made["member"]["role"] == made["token"]["role"] == "member"
    assert [each["username"] for each in listed.json()["items"]] == [
        "admin",
        "grace",
        "member",
        "reader",
    ]
    assert made["token"]["token"] not in listed.text


async def test_a_member_with_a_reduced_role_loses_it_with_every_token(api: Any) -> None:
    made = (await api("POST", "/org/acme/members", json=GRACE)).json()
    key = made["token"]["token"]
    before = await api("PUT", "/org/acme/capabilities/a/1", key=key, json={"prompt": "x"})

    changed = await api("PATCH", "/org/acme/members/grace", json={"role": "reader"})
    await asyncio.sleep(1.0)
    after = await api("PUT", "/org/acme/capabilities/a/2", key=key, json={"prompt": "x"})

    assert changed.json()["role"] == "reader"
    assert (before.status_code, after.status_code) == (201, 403)


async def test_a_removed_member_loses_every_token(api: Any) -> None:
    made = (await api("POST", "/org/acme/members", json=GRACE)).json()

    left = await api("DELETE", f"/org/acme/members/{made['member']['id']}")
    await asyncio.sleep(1.0)

    assert left.status_code == 200
    assert (await api("GET", "/user", key=made["token"]["token"])).status_code == 401
    assert (await api("DELETE", "/org/acme/members/grace")).status_code == 404


async def test_the_last_administrator_cannot_be_removed(api: Any) -> None:
    demoted = await api("PATCH", "/org/acme/members/admin", json={"role": "member"})
    removed = await api("DELETE", "/org/acme/members/admin")
    await api("PATCH", "/org/acme/members/member", json={"role": "admin"})
    then = await api("PATCH", "/org/acme/members/admin", json={"role": "member"})

    assert (demoted.status_code, removed.status_code, then.status_code) == (409, 409, 200)


async def test_two_administrators_cannot_remove_each_other_concurrently(api: Any) -> None:
    await api("PATCH", "/org/acme/members/member", json={"role": "admin"})

    answers = await asyncio.gather(
        api("DELETE", "/org/acme/members/admin"), api("DELETE", "/org/acme/members/member")
    )

    assert sorted(each.status_code for each in answers) == [200, 409]


@pytest.mark.parametrize("change", [{"email": "other@example.com"}, {"username": "other"}])
async def test_a_name_or_an_address_of_another_user_is_refused(
    api: Any, change: dict[str, str]
) -> None:
    await api("POST", "/org/acme/members", json=GRACE)

    refused = await api("POST", "/org/acme/members", json={**GRACE, **change})
    again = await api("POST", "/org/acme/members", json=GRACE)

    assert (refused.status_code, again.status_code) == (409, 409)


@pytest.mark.parametrize(
    "change",
    [{"username": "[x]"}, {"username": ""}, {"email": "none"}, {"role": "owner"}, {"more": 1}],
)
async def test_a_member_with_an_invalid_name_is_refused(api: Any, change: dict[str, Any]) -> None:
    refused = await api("POST", "/org/acme/members", json={**GRACE, **change})

    assert refused.status_code == 422
    assert len((await api("GET", "/org/acme/members")).json()["items"]) == 3


async def test_a_new_workspace_can_be_used(api: Any) -> None:
    made = await api("POST", "/org/acme/ws", json={"key": "night", "name": "Night shift"})
    again = await api("POST", "/org/acme/ws", json={"key": "night"})

    assert (made.status_code, again.status_code) == (201, 409)
    assert (await api("GET", "/org/acme/ws/night/training/jobs")).json()["total"] == 0
    assert [each["key"] for each in (await api("GET", "/org/acme/ws")).json()] == ["lab", "night"]


@pytest.mark.parametrize("key", ["Night", "", "a b", "-a", "x" * 64, "../x", "[x]"])
async def test_an_invalid_workspace_slug_is_refused(api: Any, key: str) -> None:
    assert (await api("POST", "/org/acme/ws", json={"key": key})).status_code == 422


async def test_an_administrator_creates_a_token_for_a_member_with_at_most_their_role(
    api: Any,
) -> None:
    path, wish = "/org/acme/tokens", {"name": "robot", "username": "reader"}

    made = await api("POST", path, json=wish)
    greater = await api("POST", path, json={**wish, "role": "member"})
    unknown = await api("POST", path, json={**wish, "username": "nobody"})
    by_another = await api("POST", path, key="member", json=wish)

    assert made.json()["username"] == "reader"
    assert made.json()["role"] == "reader"
    assert (greater.status_code, unknown.status_code, by_another.status_code) == (403, 404, 403)


async def test_a_token_expires(api: Any) -> None:
    wish = {"name": "short", "expires_in_days": 0.3 / 86400}
    made = (await api("POST", "/org/acme/tokens", json=wish)).json()
    at_once = await api("GET", "/user", key=made["token"])
    await asyncio.sleep(0.9)

    assert at_once.status_code == 200
    assert (await api("GET", "/user", key=made["token"])).status_code == 401


async def test_an_expiring_token_creates_no_token_that_outlives_it(api: Any) -> None:
    path, member = "/org/acme/tokens", {"username": "eve", "email": "eve@example.com"}
    short = (await api("POST", path, json={"name": "short", "expires_in_days": 1})).json()

    same = await api("POST", path, key=short["token"], json={"name": "same"})
    shorter = {"name": "shorter", "expires_in_days": 0.5}
    less = await api("POST", path, key=short["token"], json=shorter)
    longer = {"name": "longer", "expires_in_days": 2}
    more = await api("POST", path, key=short["token"], json=longer)
    wish = {**member, "role": "member", "expires_in_days": 2}
    added = await api("POST", "/org/acme/members", key=short["token"], json=wish)

    assert same.json()["expires_at"] == short["expires_at"]
    assert less.json()["expires_at"] < short["expires_at"]
    assert (more.status_code, added.status_code) == (403, 403)
    assert "cannot expire later" in more.json()["detail"]
    assert "eve" not in (await api("GET", "/org/acme/members")).text


async def test_the_operator_creates_organizations(api: Any, operator: Any) -> None:
    who = ("--username", "ada", "--email", "ada@example.com")

    made = await operator("organization", "night-shift", *who)
    again = await operator("organization", "night-shift", *who)
    reserved = await operator("organization", "training", *who)
    odd = await operator("organization", "Night Shift", *who)
    marked = await operator("organization", "day-shift", *who, "--name", "The [/day] shift")
    key = json.loads(made.stdout)["token"]

    assert made.returncode == 0, made.stderr
    assert (await api("GET", "/org/night-shift/ws/default", key=key)).status_code == 200
    assert (await api("GET", "/org/acme", key=key)).status_code == 404
    for refused in (again, reserved, odd, marked):
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: ")


async def test_routes_create_and_list_only_ones_own_organizations(api: Any) -> None:
    listed = (await api("GET", "/user/organizations", key="stranger")).json()

    assert [each["key"] for each in listed] == ["other"]
    assert (await api("POST", "/org", json={"key": "acme"})).status_code == 404
