"""The API's description of itself: what it says of the catalog, and whether it is true."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.main import create_app
from dreadnode_api.settings import Settings

HERE = Path(__file__).parent
STATUSES = {
    400: "Invalid request", 401: "Authentication failed", 403: "Access forbidden",
    404: "Not found", 409: "Already exists", 422: "Validation error", 426: "Upgrade required",
    429: "Rate limited", 500: "Internal server error", 502: "Bad gateway", 504: "Gateway timeout",
}  # fmt: skip
TYPES = re.findall(
    r"\w+",
    """
    already_exists_error app_error authentication_error conflict_error aws_error
    configuration_error database_error dynamodb_error e2b_error e2b_rate_limit_error
    expired_signature_error expired_token_error forbidden_error group_error invalid_error
    invalid_flag_error invalid_username_error mail_error member_exists_error
    member_limit_exceeded_error migration_lock_timeout_error not_found_error oauth_config_error
    org_sandbox_capacity_exceeded_error bad_gateway_error gateway_timeout_error s3_error
    server_error task_error stripe_error token_error upgrade_required_error
    usage_limit_exceeded_error user_verification_error validation_error
""",
)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
OWN_KEY = (
    "revoke_token_api_v1_org__org__tokens__token_id__delete",
    "remove_member_api_v1_org__org__members__user_id__delete",
    "set_role_api_v1_org__org__members__user_id__patch",
)


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


def test_the_catalog_accepts_the_documented_parameters(catalog: dict[str, Any]) -> None:
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
        "query": "Free-text search across model id and display name",
        "family": "Restrict to a single model family (llama, qwen, …)",
        "algorithm": "Restrict to models supporting this algorithm (sft, importance_sampling, ppo)",
        "min_size_b": "Minimum active parameter count (B)",
        "max_size_b": "Maximum active parameter count (B)",
        "limit": "Maximum number of models to return; total still reflects all matches",
    }.items():
        assert found[name]["description"].replace("`", "") == words
    assert catalog["summary"] == "Browse supported training base models"
    assert "`--model` on `dn train sft` and" in catalog["description"]
    assert {tuple(each) for each in catalog["security"]} == {("HTTPBearer",), ("APIKeyHeader",)}


def test_the_catalog_responds_with_the_documented_schemas(
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
    assert model["description"] == "One base model available for hosted training jobs."
    assert "USD per million tokens" in pricing["description"]
    assert page["properties"]["total"]["type"] == "integer"
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

    for status, words in STATUSES.items():
        answer = catalog["responses"][str(status)]
        assert answer["description"] == words
        shape = answer["content"]["application/json"]["schema"]
        assert shape["$ref"].endswith("/APIErrorPayload")
    assert catalog["responses"].keys() == {"200", "304", *map(str, STATUSES)}
    assert set(envelope["properties"]["code"]["enum"]) == set(STATUSES)
    assert types == TYPES
    assert set(envelope["required"]) == {"code", "type", "detail"}
    assert envelope["example"] == {
        "code": 401,
        "detail": "Authentication failed",
        "type": "authentication_error",
    }
    assert {name: field["description"] for name, field in item["properties"].items()} == {
        "loc": "Where the validation error occurred",
        "msg": "Human-readable validation message",
        "type": "Machine-readable validation error type",
    }
    assert set(item["required"]) == {"loc", "msg", "type"}


def test_every_operation_documents_its_errors_and_has_a_unique_name(
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


def test_the_content_of_a_dataset_has_the_type_that_was_pushed(
    description: dict[str, Any],
) -> None:
    path = "/api/v1/org/{org}/datasets/{name}/{version}"
    pushed = description["paths"][path]["put"]["requestBody"]["content"]
    answer = description["paths"][f"{path}/content"]["get"]["responses"]["200"]

    assert answer["content"].keys() == pushed.keys() - {"multipart/form-data"}


def bounded(shape: dict[str, Any]) -> bool:
    """Return whether values of this shape have a largest one, or a longest."""
    if "anyOf" in shape:
        return all(bounded(each) for each in shape["anyOf"])
    if shape.get("type") in ("integer", "number"):
        return "maximum" in shape
    if shape.get("type") == "string" and not {"maxLength", "enum", "format"} & shape.keys():
        return not re.search("[*+]|^$", re.sub(r"\[[^]]*\]", "", shape.get("pattern", "")))
    return True


def test_every_parameter_is_bounded_and_limits_the_cost_of_a_query(
    description: dict[str, Any],
) -> None:
    parameters = [
        (path, each["name"], each["schema"])
        for path, methods in description["paths"].items()
        if path != "/api/v1/training/catalog"  # It lies in memory, and has a few dozen entries.
        for operation in methods.values()
        for each in operation.get("parameters", [])
        if each["name"] != "expand"
    ]

    assert len(parameters) > 100
    assert [each for each in parameters if not bounded(each[2])] == []


async def shown(api: Any) -> str:
    """Make something of each kind to ask for, and return the id of a job that has ended."""
    await api.push()
    await api("PUT", "/org/acme/capabilities/desk/1.0.0", json={"prompt": "Be brief"})
    await api.job()
    job, key = await api.start()
    files = f"{api.jobs}/{job['id']}/files"
    assert (await api("PUT", f"{files}/note.txt", key=key, content=b"x")).is_success
    for told in (
        {"event_type": "step_complete", "metrics": {"steps": [1], "train/loss": [0.5]}},
        {"event_type": "training_end"},  # The stream of its events ends, too.
    ):
        answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=told)
        assert answer.is_success, answer.text
    return str(job["id"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_schemathesis_finds_no_failure(api: Any, service: Any, tmp_path: Path) -> None:
    job_id = await shown(api)
    service.start("serve")

    began = time.monotonic()
    run = partial(
        subprocess.run,
        [
            *(SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml"),
            *("run", f"http://127.0.0.1:{service.port}/openapi.json"),
            *("--header", f"Authorization: Bearer {api.keys['admin']}"),
            *("--checks", "all", "--phases", "fuzzing,stateful", "--max-examples", "2"),
            *("--seed", "1", "--continue-on-failure", "--request-timeout", "30"),
            # They would take away the key that all the rest is asked with.
            # Their errors have statuses of their own; `test_hostile` has strange values for them.
            *("--exclude-path-regex", "^/v1/"),
            *(part for each in OWN_KEY for part in ("--exclude-operation-id", each)),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            "PYTHONPATH": str(HERE),
            "JOB": job_id,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    done = await asyncio.to_thread(run)

    assert done.returncode == 0, f"{time.monotonic() - began:.0f} s\n{done.stdout[-8000:]}"
    log = (api.settings.data_dir / "serve.log").read_text()
    for path in ("", "/logs", "/artifacts", "/checkpoints", "/rl-context", "/files"):
        assert f"GET /api/v1{api.jobs}/{job_id}{path} 200 " in log, path
