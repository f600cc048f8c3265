"""The SDK's types against the API's description of itself, which is committed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from dreadnode import wire
from dreadnode.cli.train.sft_flags import SftFlags
from dreadnode.training import chat, jobs, rl
from pydantic import BaseModel, ValidationError

OPENAPI = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"

NOT_OFFERED = {
    *("task_ref", "world_manifest_id", "world_runtime_id", "world_agent_name", "world_goal"),
    *("world_reward", "max_episode_steps"),
}
"""What the API knows of reinforcement learning only to refuse it in a sentence."""


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(OPENAPI.read_text())["components"]["schemas"]
    return described


@pytest.mark.parametrize(
    ("kind", "name", "left_out"),
    [
        (jobs.SftConfig, "SftConfig", {"lora_alpha"}),
        (jobs.SftRequest, "SftJobRequest", {"base_model"}),
        (rl.RlConfig, "RlConfig", {"lora_alpha", *NOT_OFFERED}),
        (rl.RlRequest, "RlJobRequest", {"base_model"}),
        (chat.ChatRequest, "ChatRequest", set()),
        (chat.ChatMessage, "ChatMessage", set()),
        (wire.TokenRequest, "TokenRequest", set()),
        (wire.CapabilityRequest, "CapabilityRequest", set()),
    ],
)
def test_a_request_type_has_every_field_of_the_api(
    schemas: dict[str, Any], kind: type[BaseModel], name: str, left_out: set[str]
) -> None:
    assert set(kind.model_fields) == set(schemas[name]["properties"]) - left_out


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (jobs.TrainingJob, "TrainingJob"),
        (jobs.Progress, "Progress"),
        (jobs.LogEntry, "LogEntry"),
        (jobs.Artifacts, "Artifacts"),
        (jobs.JobFile, "JobFileView"),
        (chat.ChatAnswer, "ChatAnswer"),
        (chat.ChatReply, "ChatReply"),
        (chat.ChatUsage, "ChatUsage"),
        (wire.Dataset, "Dataset"),
        (wire.Split, "Split"),
        (wire.DatasetVersions, "DatasetVersions"),
        (wire.NewToken, "NewToken"),
        (wire.User, "UserView"),
        (wire.Organization, "OrganizationView"),
        (wire.Workspace, "WorkspaceView"),
    ],
)
def test_a_response_type_requires_only_fields_that_the_api_guarantees(
    schemas: dict[str, Any], kind: type[BaseModel], name: str
) -> None:
    promised = schemas[name]["properties"]

    assert set(kind.model_fields) - set(promised) == set()


def test_every_setting_of_a_job_is_a_flag() -> None:
    data = {"dataset_ref", "eval_dataset_ref", "trajectory_dataset_refs"}

    assert {each.name for each in fields(SftFlags)} == set(jobs.SftConfig.model_fields) - data


def test_a_misspelled_setting_is_an_error() -> None:
    with pytest.raises(ValidationError):
        jobs.SftConfig(learning_rte=1)  # type: ignore[call-arg]


def test_an_invalid_number_is_refused() -> None:
    for nothing in (float("inf"), float("nan")):
        with pytest.raises(ValidationError, match="finite"):
            jobs.SftConfig(learning_rate=nothing)


def test_a_token_is_not_shown_in_a_repr() -> None:
    made = wire.NewToken(
        id="1", name="n", role="reader", created_at="2026-11-22T03:00:00Z", token="dn_secret"
    )

    assert "dn_secret" not in repr(made)
