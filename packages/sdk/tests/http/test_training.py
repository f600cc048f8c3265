"""Training in one call: uploads, references as strings and dicts, and adapters in a folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode import ApiClient, AsyncApiClient
from dreadnode.errors import ConfigError, InputError, UnusableFile
from dreadnode.training.jobs import TrainingJob

MODEL = "Qwen/Qwen3-8B"
JOB = "01900001-0000-7000-8000-000000000000"


@pytest.fixture
def client(api: Any) -> ApiClient:
    return ApiClient(
        "http://server.test",
        "dn_test",
        organization="main",
        workspace="default",
        transport=api.transport,
    )


def submitted(api: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(api.requests[-1].content)
    return body


def test_a_file_is_uploaded_and_the_settings_are_sent(
    client: ApiClient, api: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n')

    job = client.train_sft(
        model=MODEL, dataset=str(file), rehearse=True, steps=3, learning_rate=1e-4, tags=["x"]
    )

    assert isinstance(job, TrainingJob)
    ((name, version),) = api.datasets
    assert submitted(api) == {
        "model": MODEL,
        "backend": "tinker",
        "trainer_type": "sft",
        "tags": ["x"],
        "rehearse": True,
        "rehearse_first": False,
        "config": {
            "dataset_ref": {"name": name, "version": version},
            "steps": 3,
            "learning_rate": 1e-4,
        },
    }


async def test_the_async_client_trains_in_one_call(api: Any) -> None:
    async with AsyncApiClient(
        "http://server.test",
        "dn_test",
        organization="main",
        workspace="default",
        transport=api.transport,
    ) as client:
        await client.train_sft(MODEL, "support@1.0.0", capability="desk@2")

    assert submitted(api)["config"] == {"dataset_ref": {"name": "support", "version": "1.0.0"}}
    assert submitted(api)["capability_ref"] == {"name": "desk", "version": "2"}


def test_a_dict_is_accepted_as_a_reference_and_a_reward_can_be_a_file(
    client: ApiClient, api: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def reward(): ...")

    client.train_rl(
        MODEL,
        {"name": "prompts", "version": "1"},
        trajectory_datasets=["paths@2"],
        reward=tmp_path / "mine.py",
        reward_params={"weight": 2},
        group_size=4,
    )

    assert submitted(api)["config"] == {
        "algorithm": "importance_sampling",
        "prompt_dataset_ref": {"name": "prompts", "version": "1"},
        "trajectory_dataset_refs": [{"name": "paths", "version": "2"}],
        "reward_recipe": {
            "name": "python_v1",
            "params": {"filename": "mine.py", "weight": 2, "source": "def reward(): ..."},
        },
        "group_size": 4,
    }
    client.train_rl(MODEL, "prompts@1", reward="contains_v1", reward_params={"needle": "yes"})
    assert submitted(api)["config"]["reward_recipe"] == {
        "name": "contains_v1",
        "params": {"needle": "yes"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "support"}, "`support` has no version"),
        ({"dataset": {"name": "support"}}, "is not a dataset; write `name@version`"),
        ({"capability": {"nom": "x"}}, "is not a capability; write `name@version`"),
        ({"stepz": 3}, "unknown setting `stepz`; did you mean `steps`\\?"),
        ({"steps": -1}, "`steps` is -1, but input should be greater than or equal to 1"),
    ],
)
def test_wrong_arguments_are_refused_before_a_request_is_sent(
    client: ApiClient, api: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        client.train_sft(**{"model": MODEL, "dataset": "support@1", **arguments})

    assert api.requests == []


def test_an_adapter_is_downloaded_once_and_never_overwrites_a_file(
    client: ApiClient, api: Any, tmp_path: Path, make_job: Callable[..., dict[str, Any]]
) -> None:
    api.files = {
        "adapter/a.bin": b"final", "best/a.bin": b"best", "checkpoints/step-000010/a.bin": b"ten",
    }  # fmt: skip

    folder = client.download_adapter(JOB, tmp_path / "final")
    client.download_adapter(JOB, tmp_path / "best", best=True)
    client.download_adapter(JOB, str(tmp_path / "ten"), checkpoint="step-000010")

    assert (folder / "a.bin").read_bytes() == b"final"
    assert (tmp_path / "best" / "a.bin").read_bytes() == b"best"
    assert (tmp_path / "ten" / "a.bin").read_bytes() == b"ten"
    with pytest.raises(UnusableFile, match="already exists with other content"):
        client.download_adapter(JOB, tmp_path / "final", best=True)
    api.files = {}
    api.jobs = [make_job(status="failed")]
    with pytest.raises(ConfigError, match="failed without an adapter"):
        client.download_adapter(JOB, tmp_path / "none")


def test_a_job_has_a_short_repr(make_job: Callable[..., dict[str, Any]]) -> None:
    job = TrainingJob.model_validate(make_job(name="desk", rehearsal=True))

    assert repr(job) == f"<TrainingJob {JOB} 'desk': queued, {MODEL} (rehearsal)>"


def test_help_and_signatures_name_every_argument() -> None:
    signature = inspect.signature(ApiClient.train_sft)

    assert list(signature.parameters)[:4] == ["self", "model", "dataset", "eval_dataset"]
    for name, method in inspect.getmembers(ApiClient, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__, name
            assert method.__qualname__.endswith(f".{name}")
            assert inspect.signature(method).return_annotation != inspect.Signature.empty
