"""Who may do what: every route, and every kind of key that must not open it."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.auth import service as identity
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.tokens import sha256
from dreadnode_api.main import create_app
from dreadnode_api.models.auth import Membership, Token, User
from dreadnode_api.models.base import now
from dreadnode_api.settings import Settings
from sqlalchemy import select, update

PUBLIC = {
    "/health/live", "/health/ready", "/metrics",
    "/docs", "/openapi.json", "/docs/oauth2-redirect",
}  # fmt: skip
# Anybody who may read may make keys for themselves, of at most their own role.
OWN_KEYS = {
    ("POST", "/api/v1/org/{org}/tokens"),
    ("DELETE", "/api/v1/org/{org}/tokens/{token_id}"),
}
SANDBOX = {
    ("POST", "/api/v1/org/{org}/ws/{ws}/training/jobs/{job_id}/progress"),
    ("PUT", "/api/v1/org/{org}/ws/{ws}/training/jobs/{job_id}/files/{path}"),
}
# Who belongs to the organization, what a workspace may cost, and who gets news of its jobs.
ADMIN = {
    ("POST", "/api/v1/org/{org}/ws"),
    ("POST", "/api/v1/org/{org}/members"),
    ("PATCH", "/api/v1/org/{org}/members/{user_id}"),
    ("DELETE", "/api/v1/org/{org}/members/{user_id}"),
    ("PUT", "/api/v1/org/{org}/ws/{ws}/budget"),
    ("GET", "/api/v1/org/{org}/ws/{ws}/webhooks"),
    ("POST", "/api/v1/org/{org}/ws/{ws}/webhooks"),
    ("DELETE", "/api/v1/org/{org}/ws/{ws}/webhooks/{webhook_id}"),
    ("GET", "/api/v1/org/{org}/ws/{ws}/webhooks/{webhook_id}/deliveries"),
}
# The OCI distribution protocol, which the description leaves to its own specification.
REGISTRY = {
    ("GET", "/api/v1/{org}/blobs/{digest}"),
    ("GET", "/api/v1/{org}/{name}/manifests/{version}"),
    ("POST", "/api/v1/{org}/{name}/blobs/uploads/"),
    ("PUT", "/api/v1/{org}/{name}/blobs/uploads/{upload}"),
    ("PUT", "/api/v1/{org}/{name}/manifests/{version}"),
}
VALUES = {
    "org": "acme", "ws": "lab", "project": "p", "token_id": "t", "name": "rows",
    "version": "1.0.0", "job_id": "00000000-0000-7000-8000-000000000000", "path": "a.txt",
    "tinker_id": "Qwen/Qwen3-8B", "digest": "sha256:" + "0" * 64, "upload_id": "u", "upload": "u",
    "reference": "1.0.0", "kind": "datasets", "user_id": "nobody", "webhook_id": "w",
}  # fmt: skip


def operations() -> list[tuple[str, str]]:
    """Every method and path that the service answers."""
    paths = create_app(Settings(data_dir=Path("/nowhere"))).openapi()["paths"]
    described = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        # `test_serving` has those of other makers' protocols, whose errors have other shapes.
        if path not in PUBLIC and not path.startswith("/v1/")
    }
    return sorted(described | REGISTRY)


OPERATIONS = operations()
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/org/{org}/ws/{ws}/training/jobs"): {
        "model": "Qwen/Qwen3-8B",
        "trainer_type": "sft",
        "config": {"dataset_ref": {"name": "rows", "version": "1.0.0"}},
    },
    ("POST", "/api/v1/org/{org}/tokens"): {"name": "another"},
    ("POST", "/api/v1/org/{org}/ws/{ws}/training/jobs/{job_id}/progress"): {"event_type": "log"},
}


def fill(path: str, **values: str) -> str:
    path = path.removeprefix("/api/v1")
    return re.sub(r"\{(\w+)(:path)?\}", lambda m: {**VALUES, **values}[m[1]], path)


async def ask(api: Any, method: str, path: str, key: str | None, **values: str) -> Any:
    body = BODIES.get((method, path))
    more = {"json": body} if body is not None else {}
    return await api(method, fill(path, **values), key=key, **more)


@pytest.fixture
async def bad_keys(api: Any) -> dict[str, str | None]:
    """Keys that open nothing."""
    keys = {}
    async with api.database.writing() as session:
        user = await session.scalar(select(User).where(User.username == "admin"))
        for name in ("revoked", "expired", "left"):
            keys[name], token = identity.new_token(
                api.org_id, name, user_id=user.id, role=Role.ADMIN
            )
            token.revoked_at = now() if name == "revoked" else None
            token.expires_at = now() - timedelta(seconds=1) if name == "expired" else None
            session.add(token)
        gone = User(username="gone", email="gone@example.com")
        session.add(gone)
        await session.flush()
        await session.execute(
            update(Token).where(Token.sha256 == sha256(keys["left"])).values(user_id=gone.id)
        )
    return {**keys, "none": None, "wrong": "dn_" + "x" * 43, "odd": "Bearer", "empty": " "}


async def test_every_route_refuses_every_invalid_token(
    api: Any, bad_keys: dict[str, str | None]
) -> None:
    for method, path in OPERATIONS:
        for name, key in bad_keys.items():
            refused = await ask(api, method, path, key)

            assert refused.status_code == 401, (method, path, name, refused.text)
            assert refused.json()["type"] == "authentication_error"
            assert refused.headers["WWW-Authenticate"]


async def test_every_route_of_an_organization_hides_it_from_outsiders(api: Any) -> None:
    for method, path in OPERATIONS:
        if "{org}" not in path or (method, path) in SANDBOX:
            continue
        theirs = await ask(api, method, path, "stranger")
        nobodys = await ask(api, method, path, "stranger", org="nobody")

        assert theirs.status_code in (403, 404), (method, path, theirs.text)
        assert theirs.json()["type"] == nobodys.json()["type"]
        assert theirs.text.replace("acme", "nobody") == nobodys.text


async def test_every_writing_route_needs_a_member(api: Any) -> None:
    changing = [
        (method, path)
        for method, path in OPERATIONS
        if method not in ("GET", "HEAD") and (method, path) not in SANDBOX | OWN_KEYS
    ]
    assert len(changing) >= 4
    for method, path in changing:
        refused = await ask(api, method, path, "reader")

        assert refused.status_code == 403, (method, path, refused.text)
        assert refused.json()["type"] == "forbidden_error"
        assert re.search("needs the role `(member|admin)`", refused.json()["detail"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_member_may_use_every_route_that_needs_no_administrator(api: Any) -> None:
    assert set(OPERATIONS) >= ADMIN
    for method, path in OPERATIONS:
        if (method, path) in SANDBOX:
            continue
        answer = await ask(api, method, path, "member")

        assert (answer.status_code == 403) == ((method, path) in ADMIN), (method, path, answer.text)
        if answer.status_code == 403:
            assert "needs the role `admin`, and this API token has `member`" in answer.text


async def test_an_administrator_may_use_every_route_except_those_of_the_sandbox(api: Any) -> None:
    for method, path in OPERATIONS:
        answer = await ask(api, method, path, "admin")

        expected = (method, path) in SANDBOX
        assert (answer.status_code == 403) == expected, (method, path, answer.text)
        assert answer.status_code < 500, (method, path, answer.text)


async def test_a_jobs_token_gives_access_to_that_job_and_its_data_only(api: Any) -> None:
    await api.push()
    await api.push("secret")
    other = await api.job(name="other")
    job = await api.job()
    await api("POST", f"{api.jobs}/{other['id']}/cancel")
    _claimed, key = await api.start()

    opened = [
        f"{api.jobs}/{job['id']}",
        f"{api.jobs}/{job['id']}/logs",
        f"{api.jobs}/{job['id']}/rl-context",
        f"{api.jobs}/{job['id']}/files",
        "/org/acme/datasets/rows/1.0.0",
        "/org/acme/datasets/rows/1.0.0/content",
    ]
    closed = [
        "/user",
        "/org/acme",
        "/org/acme/tokens",
        api.jobs,
        f"{api.jobs}/{other['id']}",
        f"{api.jobs}/{other['id']}/logs",
        "/org/acme/datasets",
        "/org/acme/datasets/rows",
        "/org/acme/datasets/secret/1.0.0",
        "/org/acme/datasets/secret/1.0.0/content",
    ]
    for path in opened:
        assert (await api("GET", path, key=key)).status_code == 200, path
    for path in closed:
        assert (await api("GET", path, key=key)).status_code == 403, path
    for path in (f"{api.jobs}/{job['id']}/cancel", f"{api.jobs}/{job['id']}/retry"):
        assert (await api("POST", path, key=key)).status_code == 403, path


async def test_both_token_headers_are_equivalent(api: Any) -> None:
    key = api.keys["reader"]

    bearer = await api("GET", "/user", key="reader")
    plain = await api("GET", "/user", key=None, headers={"X-API-Key": key})

    assert bearer.json() == plain.json()
    assert set(bearer.json()) == {"id", "email_address", "username", "full_name"}


async def test_a_revoked_token_fails_within_a_second(api: Any) -> None:
    made = (await api("POST", "/org/acme/tokens", json={"name": "ci", "role": "reader"})).json()
    assert (await api("GET", "/user", key=made["token"])).status_code == 200

    revoked = await api("DELETE", f"/org/acme/tokens/{made['id']}")
    await asyncio.sleep(0.9)

    assert revoked.json()["revoked_at"] is not None
    assert (await api("GET", "/user", key=made["token"])).status_code == 401


async def test_a_token_is_shown_once_and_stored_as_a_hash(api: Any) -> None:
    made = (await api("POST", "/org/acme/tokens", json={"name": "ci"})).json()

    assert re.fullmatch(r"dn_[\w-]{43}", made["token"])
    listed = await api("GET", "/org/acme/tokens")
    assert made["token"] not in listed.text
    assert made["hint"] in listed.text
    async with api.database.reading() as session:
        stored = await session.get_one(Token, made["id"])
    assert stored.sha256 == sha256(made["token"])


async def test_users_cannot_grant_more_than_their_own_role(api: Any) -> None:
    refused = await api(
        "POST", "/org/acme/tokens", key="reader", json={"name": "x", "role": "admin"}
    )

    assert (refused.status_code, refused.json()["type"]) == (403, "forbidden_error")


async def test_only_an_administrator_sees_and_revokes_the_tokens_of_others(api: Any) -> None:
    mine = (await api("POST", "/org/acme/tokens", key="member", json={"name": "m"})).json()

    seen = (await api("GET", "/org/acme/tokens", key="reader")).json()["items"]
    refused = await api("DELETE", f"/org/acme/tokens/{mine['id']}", key="reader")
    revoked = await api("DELETE", f"/org/acme/tokens/{mine['id']}")

    assert {token["username"] for token in seen} == {"reader"}
    assert (refused.status_code, revoked.status_code) == (404, 200)


async def test_reducing_a_membership_reduces_every_token_of_its_owner(api: Any) -> None:
    async with api.database.writing() as session:
        await session.execute(
            update(Membership)
            .where(
                Membership.user_id
                == select(User.id).where(User.username == "member").scalar_subquery()
            )
            .values(role="reader")
        )

    refused = await api.create(key="member")

    assert refused.status_code == 403


async def test_the_start_up_responses_have_what_published_clients_need(api: Any) -> None:
    organization = (await api("GET", "/org/acme")).json()
    listed = (await api("GET", "/user/organizations")).json()
    workspaces = (await api("GET", "/org/acme/ws")).json()
    workspace = (await api("GET", "/org/acme/ws/lab")).json()
    by_id = (await api("GET", f"/org/{api.org_id}/ws/{api.workspace_id}")).json()
    projects = await api("GET", "/org/acme/ws/lab/projects")
    project = await api("GET", "/org/acme/ws/lab/projects/default")

    assert {
        "id", "name", "key", "created_at", "updated_at",
        "effective_max_sandbox_runtime_seconds", "effective_default_sandbox_runtime_seconds",
        "platform_max_sandbox_runtime_seconds", "platform_default_sandbox_runtime_seconds",
        "max_sandbox_runtime_source_level", "default_sandbox_runtime_source_level",
    } <= set(organization)  # fmt: skip
    assert listed == [organization]
    assert workspaces == [workspace] == [by_id]
    assert {"id", "name", "key", "org_id", "created_at", "updated_at", "is_default"} == set(
        workspace
    )
    assert projects.json() == []
    assert project.status_code == 404
