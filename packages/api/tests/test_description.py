"""The API's description of itself: what it says of the catalog, and whether it is true."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from app.main import create_app
from app.settings import Settings

HERE = Path(__file__).parent
STATUSES = (400, 401, 403, 404, 409, 422, 426, 429, 500, 502, 504)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    app = create_app(Settings(data_dir=Path("/nowhere")))
    described: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    return described


@pytest.fixture
def catalog(description: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = description["paths"]["/api/v1/training/catalog"]["get"]
    return operation


def schema(description: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = description["components"]["schemas"][name]
    return found


def kind(field: dict[str, Any]) -> set[str]:
    return {each["type"] for each in field["anyOf"]} if "anyOf" in field else {field["type"]}


def test_the_catalog_takes_the_documented_parameters(catalog: dict[str, Any]) -> None:
    found = {each["name"]: each for each in catalog["parameters"] if each["in"] == "query"}
    kinds = {name: kind(found[name]["schema"]) - {"null"} for name in found}
    limit = found["limit"]["schema"]

    for name in ("query", "family", "algorithm"):
        assert kinds[name] == {"string"}
    for name in ("min_size_b", "max_size_b"):
        assert kinds[name] == {"number"}
    assert (limit["default"], limit["minimum"], limit["maximum"]) == (20, 1, 100)
    assert not any(each["required"] for each in found.values())
    for name, words in {
        "query": "model id and display name",
        "family": "single model family",
        "algorithm": "sft",
        "min_size_b": "active parameter",
        "max_size_b": "active parameter",
        "limit": "total still reflects all matches",
    }.items():
        assert words in found[name]["description"]


def test_the_catalog_answers_with_the_documented_schemas(
    description: dict[str, Any], catalog: dict[str, Any]
) -> None:
    page = schema(description, "TrainingCatalogResponse")
    model = schema(description, "TrainingModel")
    pricing = schema(description, "TrainingModelPricing")
    answer = catalog["responses"]["200"]["content"]["application/json"]["schema"]
    fields = model["properties"]

    assert answer["$ref"].endswith("/TrainingCatalogResponse")
    assert page["properties"]["models"]["items"]["$ref"].endswith("/TrainingModel")
    assert page["properties"]["limit"]["minimum"] == 1
    assert set(page["required"]) == {"models", "total", "limit"}
    assert set(model["required"]) == {
        "tinker_id",
        "display_name",
        "family",
        "type",
        "size_b",
        "context_length",
        "supported_algorithms",
    }
    assert (fields["size_b"]["minimum"], fields["context_length"]["minimum"]) == (0.1, 1)
    assert fields["type"]["enum"] == ["dense", "moe"]
    assert set(fields["supported_algorithms"]["items"]["enum"]) == {
        "sft",
        "importance_sampling",
        "ppo",
    }
    assert fields["family"]["type"] == "string"
    assert "enum" not in fields["family"]
    assert fields["extended_context"]["type"] == "boolean"
    assert {"prefill", "sample", "train"} <= pricing["properties"].keys()
    for name in ("prefill", "sample", "train"):
        assert "number" in kind(pricing["properties"][name])


def test_every_documented_failure_of_the_catalog_has_the_envelope(
    description: dict[str, Any], catalog: dict[str, Any]
) -> None:
    envelope = schema(description, "APIErrorPayload")
    item = schema(description, "ValidationErrorItem")
    types = envelope["properties"]["type"]["enum"]

    for status in STATUSES:
        shape = catalog["responses"][str(status)]["content"]["application/json"]["schema"]
        assert shape["$ref"].endswith("/APIErrorPayload")
    assert set(envelope["properties"]["code"]["enum"]) == set(STATUSES)
    assert len(types) == len(set(types)) == 35
    assert set(envelope["required"]) == {"code", "type", "detail"}
    assert set(item["required"]) == {"loc", "msg", "type"}


def test_every_operation_tells_its_failures_and_has_a_name_of_its_own(
    description: dict[str, Any],
) -> None:
    operations = [
        (path, operation)
        for path, methods in description["paths"].items()
        for operation in methods.values()
    ]
    names = [operation["operationId"] for _, operation in operations]

    assert len(names) == len(set(names))
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for path, operation in operations:
        assert operation.get("description"), path
        if path.startswith("/api/"):
            assert {str(each) for each in STATUSES} <= operation["responses"].keys(), path
            assert operation["security"], path


def test_what_is_made_links_to_what_can_be_done_with_it(description: dict[str, Any]) -> None:
    made = description["paths"]["/api/v1/org/{org}/ws/{ws}/training/jobs"]["post"]
    links = {
        name.split("_api_")[0]: each for name, each in made["responses"]["201"]["links"].items()
    }

    assert {"get_training_job", "cancel_training_job", "retry_training_job"} <= links.keys()
    assert links["get_training_job"]["parameters"] == {
        "org": "$request.path.org",
        "ws": "$request.path.ws",
        "job_id": "$response.body#/id",
    }


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A server in a process of its own, and its first key."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("DREADNODE_", "TINKER_"))},
        "DREADNODE_DATA_DIR": str(tmp_path / "data"),
        "DREADNODE_RATE_LIMIT": "0",
    }
    made = subprocess.run(
        [sys.executable, "-m", "app", "init"], env=environment, capture_output=True, check=True
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", "0"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        ready = server.stdout.readline()
        yield ready.split()[-1], json.loads(made.stdout)["token"]
    finally:
        server.terminate()
        server.wait(20)


def test_schemathesis_finds_nothing(address: tuple[str, str], tmp_path: Path) -> None:
    server, key = address
    headers = {"Authorization": f"Bearer {key}"}
    asked = httpx.put(
        f"{server}/api/v1/org/main/datasets/rows/1.0.0",
        content=b'{"prompt": "a", "response": "b"}\n',
        headers=headers,
        timeout=30,
    )
    assert asked.status_code == 201

    began = time.monotonic()
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml"),
            *("run", f"{server}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}"),
            *("--phases", "fuzzing,stateful", "--max-examples", "2"),
            *("--seed", "1", "--continue-on-failure", "--request-timeout", "30"),
            # They would take away the key that all the rest is asked with.
            *("--exclude-method", "DELETE"),
            *("--exclude-operation-id", "set_role_api_v1_org__org__members__user_id__patch"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, f"{time.monotonic() - began:.0f} s\n{done.stdout[-8000:]}"
