"""The catalog over HTTP: its shape, its filters, its cache and what this server can train."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from app.training.catalog import TINKER_MODELS
from dreadnode_api import migrations
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.people import create_first
from dreadnode_api.auth.service import new_token
from dreadnode_api.catalog.schemas import TrainingCatalogEntry, TrainingCatalogResponse
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.main import create_app
from dreadnode_api.models.auth import Organization, Token
from dreadnode_api.models.base import now
from dreadnode_api.settings import Settings
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

CATALOG = "/api/v1/training/catalog"
DOCUMENTED = [
    "tinker_id",
    "display_name",
    "family",
    "type",
    "size_b",
    "context_length",
    "extended_context",
    "supported_algorithms",
    "pricing",
]


class FakeEngine:
    """Answers `get_server_capabilities`, and counts how often it was asked."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        route = Route("/api/v1/get_server_capabilities", self.capabilities)
        self.app = Starlette(routes=[route])

    async def capabilities(self, request: Request) -> JSONResponse:
        self.asked += 1
        return JSONResponse({"supported_models": self.models}, status_code=self.status)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A migrated database with its first key, which each test starts from a copy of."""
    folder = tmp_path_factory.mktemp("first-start")

    async def init() -> str:
        database = Database(Settings(data_dir=folder).database_url)
        await migrations.upgrade(database)
        async with database.writing() as session:
            key = await create_first(session)
        await database.dispose()
        assert key is not None
        return key

    return folder / "dreadnode.db", asyncio.run(init())


@pytest.fixture
async def client(
    tmp_path: Path, first_start: tuple[Path, str], engine: FakeEngine
) -> AsyncIterator[httpx2.AsyncClient]:
    file, key = first_start
    shutil.copy(file, tmp_path)
    app = create_app(Settings(data_dir=tmp_path))
    app.state.engine = EngineClient(
        "http://engine", "tml-x", transport=httpx2.ASGITransport(app=engine.app)
    )
    database: Database = app.state.database
    client = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app),
        base_url="http://api",
        headers={"Authorization": f"Bearer {key}"},
    )
    async with client:
        client.app = app  # type: ignore[attr-defined]
        yield client
    await database.dispose()


async def test_the_default_response_has_exactly_the_documented_shape(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.get(CATALOG)

    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(body) == ["models", "total", "limit"]
    assert (len(body["models"]), body["total"], body["limit"]) == (20, 45, 20)
    assert all(list(model) == DOCUMENTED for model in body["models"])
    prices = [model["pricing"] for model in body["models"] if model["pricing"]]
    assert all(list(pricing) == ["prefill", "sample", "train"] for pricing in prices)


async def test_openapi_describes_every_entrys_response_correctly(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.get(CATALOG, params={"limit": 100, "expand": "all", "facets": True})

    page = TrainingCatalogResponse.model_validate_json(answer.content, strict=True)
    said = json.loads(answer.content)
    assert page.model_dump(exclude_unset=True) == said
    assert page.total == len(said["models"]) == 45


async def test_filters_combine_and_total_counts_all_matches(client: httpx2.AsyncClient) -> None:
    params: dict[str, Any] = {
        "query": "qwen3",
        "family": "qwen",
        "algorithm": "ppo",
        "min_size_b": 3,
        "max_size_b": 10,
        "limit": 2,
    }
    body = (await client.get(CATALOG, params=params)).json()

    assert len(body["models"]) == 2
    assert body["total"] > 2
    assert all(3 <= model["size_b"] <= 10 for model in body["models"])


async def test_the_other_filters_work_like_the_documented_ones(
    client: httpx2.AsyncClient,
) -> None:
    params: dict[str, Any] = {
        "type": "moe",
        "status": "active",
        "min_context": 65536,
        "vision": True,
        "max_train": 2,
        "sort": "-train",
        "expand": "lifecycle",
        "facets": True,
    }
    body = (await client.get(CATALOG, params=params)).json()

    rates = [model["pricing"]["train"] for model in body["models"]]
    assert rates == sorted(rates, reverse=True)
    assert all(model["status"] == "active" for model in body["models"])
    assert body["facets"]["type"] == {"moe": body["total"]}


async def test_an_unknown_family_is_an_empty_page(client: httpx2.AsyncClient) -> None:
    body = (await client.get(CATALOG, params={"family": "mistral"})).json()

    assert body == {"models": [], "total": 0, "limit": 20}


@pytest.mark.parametrize("query", ["min_size_b=70&max_size_b=8", "query=no%E2%80%8Bsuch"])
async def test_filters_that_no_model_matches_give_an_empty_page(
    client: httpx2.AsyncClient, query: str
) -> None:
    answer = await client.get(f"{CATALOG}?{query}")

    assert answer.json() == {"models": [], "total": 0, "limit": 20}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("offset=-1", "offset"),
        ("min_size_b=-1", "min_size_b"),
        ("min_size_b=nan", "min_size_b"),
        ("max_size_b=inf", "max_size_b"),
        ("min_size_b=70&max_size_b=8&sort=name", "sort"),
        ("algorithm=grpo", "algorithm"),
        ("sort=name", "sort"),
        ("type=sparse", "type"),
        ("status=gone", "status"),
        ("min_context=0", "min_context"),
        ("expand=colour", "expand"),
        ("famly=llama", "famly"),
        ("query=" + "x" * 201, "query"),
        ("query=%00", "query"),
        ("family=%1b%5b31m", "family"),
        ("algorithm=%5Bred%5D", "algorithm"),
    ],
)
async def test_an_invalid_filter_is_a_422_that_names_the_field(
    client: httpx2.AsyncClient, query: str, field: str
) -> None:
    answer = await client.get(f"{CATALOG}?{query}")

    body = answer.json()
    assert answer.status_code == 422
    assert (body["code"], body["type"]) == (422, "validation_error")
    assert body["errors"][0]["loc"] == ["query", field]
    assert f"`{field}`" in body["detail"]
    assert not set("[]\n") & set(body["detail"])


@pytest.mark.parametrize(
    "tinker_id", ["Qwen/Qwen3-8B", "zai-org/GLM-5.3:peft:262144", "openai/gpt-oss-120b:peft:131072"]
)
async def test_an_entry_is_found_by_its_base_or_extended_id(
    client: httpx2.AsyncClient, tinker_id: str
) -> None:
    answer = await client.get(f"{CATALOG}/{tinker_id}")

    assert answer.status_code == 200
    assert answer.json()["tinker_id"] == tinker_id
    assert list(answer.json()) == DOCUMENTED


async def test_an_expanded_entry_contains_every_known_field(client: httpx2.AsyncClient) -> None:
    answer = await client.get(f"{CATALOG}/Qwen/Qwen3.6-27B", params={"expand": "all"})

    entry = TrainingCatalogEntry.model_validate_json(answer.content, strict=True)
    assert (entry.status, entry.retired_on, entry.replacement) == (
        "retired",
        "2026-09-02",
        "Qwen/Qwen3.8-27B",
    )


async def test_an_unknown_id_is_a_404_with_the_documented_two_lines(
    client: httpx2.AsyncClient,
) -> None:
    near = await client.get(f"{CATALOG}/meta-llama/Llama-3.1-8B-Instruc")
    far = await client.get(f"{CATALOG}/mistralai/Mistral-7B")

    assert near.status_code == 404
    assert near.json() == {
        "code": 404,
        "type": "not_found_error",
        "detail": "Unknown training base model 'meta-llama/Llama-3.1-8B-Instruc'.\n"
        "Did you mean one of: meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B?",
    }
    assert far.json()["detail"].endswith("\nSee `dn train catalog`.")


async def test_an_unchanged_response_is_not_sent_again(client: httpx2.AsyncClient) -> None:
    first = await client.get(CATALOG)
    again = await client.get(CATALOG)
    tag = again.headers["etag"]
    kept = await client.get(CATALOG, headers={"If-None-Match": f'"other", W/{tag}'})
    other = await client.get(f"{CATALOG}?limit=5", headers={"If-None-Match": tag})

    assert first.content == again.content
    assert first.headers["etag"] == tag
    assert (kept.status_code, kept.content, kept.headers["etag"]) == (304, b"", tag)
    assert "content-length" not in kept.headers
    assert other.status_code == 200
    assert other.headers["etag"] != tag


async def test_a_prepared_response_is_sent_only_to_callers_who_may_read(
    client: httpx2.AsyncClient,
) -> None:
    await client.get(CATALOG)
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    async with database.writing() as session:
        organization = (await session.scalars(select(Organization))).one()
        key, token = new_token(organization.id, "of a job", job_id="gone", attempt=1)
        session.add(token)

    nobody = await client.get(CATALOG, headers={"Authorization": ""})
    stranger = await client.get(CATALOG, headers={"Authorization": "Bearer dn_wrong"})
    sandbox = await client.get(CATALOG, headers={"Authorization": f"Bearer {key}"})

    assert (nobody.status_code, nobody.json()["type"]) == (401, "authentication_error")
    assert stranger.status_code == 401
    assert (sandbox.status_code, sandbox.json()["type"]) == (403, "forbidden_error")


async def test_a_revoked_token_stops_reading_prepared_responses_within_a_second(
    client: httpx2.AsyncClient,
) -> None:
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    async with database.writing() as session:
        admin = (await session.scalars(select(Token))).one()
        key, short = new_token(admin.org_id, "short", role=Role.READER, user_id=admin.user_id)
        session.add(short)
    theirs = {"Authorization": f"Bearer {key}"}
    before = [(await client.get(CATALOG, headers=theirs)).status_code for _ in range(3)]
    async with database.writing() as session:
        (await session.get_one(Token, short.id)).revoked_at = now()
    await asyncio.sleep(0.95)
    after = (await client.get(CATALOG, headers=theirs)).status_code

    assert before == [200, 200, 200]
    assert after == 401


async def test_prepared_responses_pass_through_all_middleware(
    client: httpx2.AsyncClient,
) -> None:
    await client.get(CATALOG)
    answer = await client.get(CATALOG, headers={"X-Request-ID": "mine"})
    metrics = (await client.get("/metrics")).text

    assert answer.headers["x-request-id"] == "mine"
    assert 'http_requests_total{method="GET",status="200"} 2.0' in metrics


async def test_available_shows_what_the_engine_serves_and_how_old_that_answer_is(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.models = [
        {"model_name": "Qwen/Qwen3-8B", "trainable": True},
        {"model_name": "openai/gpt-oss-120b:peft:131072"},
        {"model_name": "Qwen/Qwen3.5-9B", "trainable": False},
        {"model_name": "Qwen/Qwen3-32B", "trainable": True, "stand_in": True},
    ]
    params = {"expand": "available,extended", "limit": 100}
    body = (await client.get(CATALOG, params=params)).json()
    again = (await client.get(CATALOG, params=params)).json()

    found = {model["tinker_id"]: model for model in body["models"]}
    assert {name for name, model in found.items() if model["available"]} == {"Qwen/Qwen3-8B"}
    assert found["openai/gpt-oss-120b"]["extended"]["available"] is True
    assert found["openai/gpt-oss-120b"]["available"] is False
    assert body["engine"]["age_seconds"] <= again["engine"]["age_seconds"]
    assert engine.asked == 1


async def test_without_its_engine_the_catalog_is_readable_and_availability_is_unknown(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.status = 500
    answer = await client.get(CATALOG, params={"expand": "available"})
    one = await client.get(f"{CATALOG}/Qwen/Qwen3-8B", params={"expand": "available"})

    body = answer.json()
    assert answer.status_code == 200
    assert {model["available"] for model in body["models"]} == {None}
    assert body["engine"]["age_seconds"] is None
    assert "status 500" in body["engine"]["detail"]
    assert one.json()["available"] is None
    assert "etag" not in answer.headers


async def test_the_plain_catalog_never_asks_the_engine(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await client.get(CATALOG)
    await client.get(f"{CATALOG}/Qwen/Qwen3-8B")

    assert engine.asked == 0


async def test_every_entry_can_be_read_by_its_own_id(client: httpx2.AsyncClient) -> None:
    for model in TINKER_MODELS:
        answer = await client.get(f"{CATALOG}/{model.tinker_id}")

        assert answer.json()["tinker_id"] == model.tinker_id
