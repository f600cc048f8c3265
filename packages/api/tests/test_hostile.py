"""Every route, asked by somebody who means harm: refused in the envelope, and nothing written."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from dreadnode_api.auth.schemas import MemberRequest, RoleRequest, TokenRequest, WorkspaceRequest
from dreadnode_api.capabilities.schemas import CapabilityRequest, VisibilityRequest
from dreadnode_api.checkpoints.routes import AdapterRequest
from dreadnode_api.main import create_app
from dreadnode_api.models.base import Table
from dreadnode_api.serving.job_chat_routes import ChatRequest
from dreadnode_api.settings import Settings
from dreadnode_api.training.schemas import JobRequest, ProgressRequest, RetryRequest
from dreadnode_api.webhooks.schemas import WebhookRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
JOB = "/api/v1/org/{org}/ws/{ws}/training/jobs/{job_id}"
REGISTRY = [
    ("GET", "/api/v1/{org}/blobs/{digest}"),
    ("GET", "/api/v1/{org}/{name}/manifests/{version}"),
    ("POST", "/api/v1/{org}/{name}/blobs/uploads/"),
    ("PUT", "/api/v1/{org}/{name}/blobs/uploads/{upload}"),
    ("PUT", "/api/v1/{org}/{name}/manifests/{version}"),
]
REF = {"name": "rows", "version": "1.0.0"}
# A body of each kind that would be taken, for one of its values to be spoilt.
SOUND: dict[str, dict[str, Any]] = {
    "POST /api/v1/org/{org}/ws": {"key": "den", "name": "Den"},
    "POST /api/v1/org/{org}/tokens": {"name": "ci", "role": "reader", "expires_in_days": 1},
    "POST /api/v1/org/{org}/members": {
        "username": "ada", "email": "ada@example.com", "role": "member", "full_name": "Ada",
    },
    "PATCH /api/v1/org/{org}/members/{user_id}": {"role": "member"},
    "PUT /api/v1/org/{org}/capabilities/{name}/{version}": {"prompt": "x", "description": "y"},
    "POST /api/v1/org/{org}/ws/{ws}/training/jobs": {
        "model": "Qwen/Qwen3-8B", "trainer_type": "sft", "name": "n", "tags": ["t"],
        # Of a dataset that does not exist, so that no check has to be started for it.
        "config": {"dataset_ref": {"name": "rows", "version": "0"}, "steps": 1},
        "capability_ref": REF, "rehearse": False,
    },
    f"POST {JOB}/progress": {
        "event_type": "step_complete", "metrics": {"steps": [1]}, "data": {"step": 1}, "seq": 1,
        "attempt": 1, "message": "m", "level": "info", "artifacts": {}, "error": "e",
    },
    f"POST {JOB}/checkpoints/adapter": {"checkpoint": "final"},
    f"POST {JOB}/chat": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    f"POST {JOB}/retry": {"from_start": True},
    "POST /v1/chat/completions": {
        "model": "none", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
    },
    "POST /v1/completions": {"model": "none", "prompt": "x", "stop": ["a"]},
    "POST /v1/messages": {
        "model": "none", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
    },
    "POST /v1/messages/count_tokens": {
        "model": "none", "messages": [{"role": "user", "content": "x"}],
    },
    "POST /api/v1/org/{org}/ws/{ws}/webhooks": {"url": "http://127.0.0.1:9/", "statuses": []},
    "PATCH /api/v1/org/{org}/capabilities/{name}/visibility": {"is_public": False},
}  # fmt: skip
STRANGE = [
    None, True, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "[/x]",
    "../../etc/passwd", "x" * 5000, [], {}, [[]], {"\0": 1}, {"a": {"b": ["\ud800"]}}, [None] * 60,
]  # fmt: skip
RAW = [
    b"", b"\0", b"\xff\xfe\x00", b"{", b"null", b"[]", b'"x"', b"NaN", b"1e999", b'{"a": NaN}',
    b'{"a": -Infinity}', b"[" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b'{"\\ud800": "\\udfff"}',
    b'{"a": 1, "a": 2}', b"\xed\xa0\x80", b"\xef\xbb\xbf{}", b"--x\r\n\r\n--x--",
]  # fmt: skip
SEGMENTS = [
    "..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a%2fb", "%00", "a%00", "%ff", "%ed%a0%80",
    "%0d%0aSet-Cookie:x=y", "%5bx%5d", "%5c..%5c", "-1", "latest", "ACME", "x" * 3000, "%20",
    "sha256:" + "g" * 64, "1" * 400, "~", "*", "'%20or%201=1--", "%f0%9f%9a%a2",
]  # fmt: skip
FILE = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*"
ONE_ROW = (b'{"\\ud800": "\\udfff"}', b"\xef\xbb\xbf{}")
"""Bodies of RAW that are a dataset of one row, as a JSON file."""
QUERIES = ["\0", "-1", "1e400", "9" * 400, "NaN", "[/x]", "../..", "\ud800", "x" * 5000, "%", "'"]


def operations() -> list[tuple[str, str]]:
    """Every method and path that needs a key, those of the registry included."""
    paths = create_app(Settings(data_dir=Path("/nowhere"))).openapi()["paths"]
    described = [
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path.startswith(("/api/", "/v1/"))
    ]
    return described + REGISTRY


OPERATIONS = operations()
# Those where any bytes are right, or none are read, are left out.
WITH_BODY = [
    (method, path)
    for method, path in OPERATIONS
    if method in ("POST", "PUT", "PATCH")
    and not path.endswith(("/files/{path}", "/cancel", "/uploads/", "/uploads/{upload}"))
]


class World:
    """Two organizations with something in each, and what a request of ours is filled with."""

    def __init__(self, api: Any, key: str, values: dict[str, str]) -> None:
        self.api = api
        self.key = key
        self.values = values

    def fill(self, path: str, /, **changes: str) -> str:
        values = {**self.values, **changes}
        return re.sub(r"\{(\w+)(?::path)?\}", lambda m: values[m[1]], path)

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """Ask as the one who may: an administrator, or the sandbox where only it may."""
        sandbox = path.endswith("/progress") or (method == "PUT" and "/files/" in path)
        key = self.key if sandbox else self.api.keys["admin"]
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        return await self.api.client.request(method, path, headers=headers, **more)

    async def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        tables = list(Table.metadata.tables.values())
        async with self.api.database.reading() as session:
            one = select(*(select(func.count()).select_from(t).scalar_subquery() for t in tables))
            row = (await session.execute(one)).one()
        return {table.name: count for table, count in zip(tables, row, strict=True)}


async def populate(api: Any, org: str, key: str) -> dict[str, str]:
    """Make one of everything in an organization, and return what the paths call it."""
    body = b'{"prompt": "a", "response": "b"}\n'
    base = f"/org/{org}"
    assert (await api("PUT", f"{base}/datasets/rows/1.0.0", key=key, content=body)).is_success
    prompt = {"prompt": "x"}
    assert (await api("PUT", f"{base}/capabilities/rows/1.0.0", key=key, json=prompt)).is_success
    wish = {"model": "Qwen/Qwen3-8B", "trainer_type": "sft", "config": {"dataset_ref": REF}}
    job = (await api("POST", f"{base}/ws/lab/training/jobs", key=key, json=wish)).json()
    hook = {"url": "http://127.0.0.1:9/"}
    webhook = (await api("POST", f"{base}/ws/lab/webhooks", key=key, json=hook)).json()
    token = (await api("POST", f"{base}/tokens", key=key, json={"name": "ci"})).json()
    member = (await api("GET", f"{base}/members", key=key)).json()["items"][0]
    return {
        "job_id": job["id"], "webhook_id": webhook["id"], "token_id": token["id"],
        "user_id": member["id"],
    }  # fmt: skip


@pytest.fixture
async def world(api: Any) -> World:
    ours = await populate(api, "acme", "admin")
    _, key = await api.start(ours["job_id"])
    values = {
        **ours, "org": "acme", "ws": "lab", "project": "p", "name": "rows", "version": "1.0.0",
        "path": "a.txt", "tinker_id": "Qwen/Qwen3-8B",
        "digest": "sha256:" + "0" * 64, "upload": "0" * 32,
    }  # fmt: skip
    return World(api, key, values)


def refused(answer: Any) -> bool:
    """Return whether an answer is a refusal, which must have the documented form."""
    assert answer.status_code < 500, (answer.request.method, str(answer.request.url), answer.text)
    if answer.is_success or answer.request.method == "HEAD":
        return False
    body = answer.json()
    if answer.request.url.path.startswith("/v1/"):
        error = body["error"]
        assert not set("[]") & set(error["message"])
        assert error["type"]
        return True
    assert {"code", "type", "detail"} <= body.keys() <= {"code", "type", "detail", "errors"}
    assert body["code"] == answer.status_code
    assert not set("[]") & set(body["detail"])
    return True


def spoilt(sound: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield SOUND with one of its values, at any depth, replaced by each strange one."""
    if not sound:
        return
    for name, value in sound.items():
        for strange in STRANGE:
            yield {**sound, name: strange}
        if isinstance(value, dict):
            yield from ({**sound, name: inner} for inner in spoilt(value))
    yield {**sound, "\ud800": 1}
    yield {**sound, "[/red]": 1}
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    yield {**sound, next(iter(sound)): deep}


@one_database
async def test_paths_that_leave_their_folder_give_access_to_nothing(world: World) -> None:
    before = await world.counts()
    for method, path in OPERATIONS:
        for name in re.findall(r"\{(\w+)", path):
            for segment in SEGMENTS:
                if name == "path" and re.fullmatch(FILE, unquote(segment)):
                    continue
                url = "http://api" + world.fill(path, **{name: segment})
                answer = await world.ask(method, url, content=b"")

                # To begin an upload keeps nothing.
                harmless = method == "GET" or answer.status_code == 202
                assert refused(answer) or harmless, (method, url, answer.text)
                assert "set-cookie" not in answer.headers
    assert await world.counts() == before
    assert not list(world.api.settings.data_dir.rglob("passwd"))


@one_database
async def test_bytes_that_are_not_a_request_change_nothing(world: World) -> None:
    before = await world.counts()
    for method, path in WITH_BODY:
        url = world.fill(path, version="9.9.9", path="b.txt")
        kinds = ["application/json"]
        if "/datasets/" in path and method == "PUT":
            kinds += [
                "text/csv",
                "application/vnd.apache.parquet",
                "multipart/form-data; boundary=x",
            ]
        for kind in kinds:
            for body in RAW if kind != "text/csv" else RAW[:5]:
                if "/datasets/" in path and body in ONE_ROW:
                    continue
                headers = {"Content-Type": kind}
                answer = await world.ask(method, url, content=body, headers=headers)

                assert refused(answer), (method, path, kind, body[:30], answer.text)
    assert await world.counts() == before


@one_database
async def test_an_unusual_value_in_a_valid_body_gets_a_response_below_500(world: World) -> None:
    headers = {"Content-Type": "application/json"}
    for operation, sound in SOUND.items():
        method, path = operation.split(" ")
        before = await world.counts()
        for number, body in enumerate(spoilt(sound)):
            url = world.fill(path, version=f"9.{number}.0")
            content = json.dumps(body)  # NaN, infinities and lone surrogates included.

            answer = await world.ask(method, url, content=content, headers=headers)

            after = await world.counts()
            assert not refused(answer) or after == before, (operation, content[:200])
            before = after


@one_database
async def test_any_query_gets_a_response_below_500(world: World) -> None:
    paths = world.api.app.openapi()["paths"]
    for path, methods in paths.items():
        parameters = methods.get("get", {}).get("parameters", [])
        if path.endswith("/events"):
            continue  # A stream does not end; the value of its query is tried elsewhere.
        for name in [each["name"] for each in parameters if each["in"] == "query"]:
            for value in QUERIES:
                query = {name: value.encode("utf-8", "surrogatepass")}
                answer = await world.ask("GET", world.fill(path), params=query)

                refused(answer)


@one_database
async def test_every_operation_refuses_an_unknown_parameter(world: World) -> None:
    before = await world.counts()
    # Clients of other protocols send parameters of their own, as those of the registry do.
    operations = [e for e in OPERATIONS if e not in REGISTRY and e[1].startswith("/api/")]
    assert len(operations) > 40
    for method, path in operations:
        query = {"unknown_parameter": "1"}
        answer = await world.ask(method, world.fill(path), params=query)

        assert answer.status_code == 422, (method, path, answer.text)
        assert [(each["loc"], each["type"]) for each in answer.json()["errors"]] == [
            (["query", "unknown_parameter"], "extra_forbidden")
        ], (method, path)
    assert await world.counts() == before


@one_database
async def test_ids_of_others_look_like_unknown_ids(world: World) -> None:
    theirs = await populate(world.api, "other", "stranger")
    before = await world.counts()
    nobody = "00000000-0000-7000-8000-000000000000"
    for method, path in OPERATIONS:
        body = SOUND.get(f"{method} {path}")
        for name in {"job_id", "webhook_id", "token_id", "user_id"} & set(
            re.findall(r"\{(\w+)", path)
        ):
            asked = await world.ask(
                method, world.fill(path, **{name: theirs[name]}), json=body or {}
            )
            unknown = await world.ask(method, world.fill(path, **{name: nobody}), json=body or {})

            assert refused(asked), (method, path)
            assert asked.status_code in (403, 404), (method, path, asked.text)
            assert asked.text.replace(theirs[name], nobody) == unknown.text
    assert await world.counts() == before


MODELS: list[Any] = [
    JobRequest, ProgressRequest, ChatRequest, TokenRequest, MemberRequest, RoleRequest,
    WorkspaceRequest, CapabilityRequest, VisibilityRequest, WebhookRequest,
    AdapterRequest, RetryRequest,
]  # fmt: skip
ADAPTERS = [TypeAdapter(each) for each in MODELS]
SOUND_BODIES = [body for operation, body in SOUND.items() if not operation.startswith("PATCH")] + [
    {"role": "reader"},
    {"is_public": False},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(STRANGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
@given(sound=st.sampled_from(SOUND_BODIES), changes=st.data())
def test_an_accepted_request_can_be_stored_and_read_back_unchanged(
    sound: dict[str, Any], changes: st.DataObject
) -> None:
    spoil = changes.draw(st.dictionaries(st.sampled_from([*sound, "else"]), JSON, max_size=2))
    for adapter in ADAPTERS:
        try:
            taken = adapter.validate_python({**sound, **spoil})
        except ValidationError:
            continue

        told = adapter.dump_json(taken, exclude_unset=True)
        assert "\\u0000" not in told.decode("utf-8")
        assert adapter.validate_json(told) == taken
