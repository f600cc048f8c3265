"""Evaluations: jobs of a kind of their own, from their models to their result."""

import json
import re
from typing import Any

import pytest
from app.training.catalog import get_training_model
from dreadnode_api.auth.tokens import run_key
from dreadnode_api.errors import Invalid
from dreadnode_api.jobs.dispatcher import describe_sandbox
from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.rates import Rates
from dreadnode_api.training.evaluated_models import EvaluatedModels, check_common_price

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MODEL = "Qwen/Qwen3-8B"
WEIGHTS = "tinker://run-1/weights/step-{:06d}"
REWARD = {"name": "contains_v1", "params": {"needle": "a"}}
FIGURE = {"value": 1.5, "low": 1.0, "high": 2.0, "rows": 8, "method": "student_t"}


def body(*models: str, **config: Any) -> dict[str, Any]:
    given = {"models": list(models), "dataset_ref": {"name": "rows", "version": "1.0.0"}, **config}
    return {"trainer_type": "eval", "config": given}


async def trained(
    api: Any, name: str = "sums", run: str = "run-1", **changes: Any
) -> dict[str, Any]:
    """A running job with two checkpoints."""
    await api.job(name=name, **changes)
    job, key = await api.start()
    for step in (10, 20):
        await report(
            api,
            job,
            key,
            "checkpoint_saved",
            data={"step": step},
            artifacts={"latest_checkpoint": WEIGHTS.format(step).replace("run-1", run)},
        )
    return dict(job)


async def report(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> None:
    path, event = f"{api.jobs}/{job['id']}/progress", {"event_type": kind, **more}
    told = await api("POST", path, key=key, json=event)
    assert told.status_code == 200, told.text


async def evaluation(api: Any, *models: str, **config: Any) -> dict[str, Any]:
    created = await api("POST", api.jobs, json=body(*models, **config))
    assert created.status_code == 201, created.text
    return dict(created.json())


async def upload(api: Any, job: dict[str, Any], key: str, path: str, content: bytes) -> None:
    put = await api("PUT", f"{api.jobs}/{job['id']}/files/{path}", key=key, content=content)
    assert put.status_code == 201, put.text


async def test_an_evaluation_resolves_its_models_and_adds_their_base(api: Any) -> None:
    await api.push()
    job = await trained(
        api, config={"system_prompt": "Be brief.", "train_on": "last_assistant_turn"}
    )

    found = await evaluation(api, "sums", f"{job['id']}@step-000010", reward_recipe=REWARD)

    assert (found["trainer_type"], found["status"], found["model"]) == ("eval", "queued", MODEL)
    models = found["artifacts"]["models"]
    assert [(each["name"], each["checkpoint"], each["step"]) for each in models] == [
        (MODEL, None, None),
        ("sums", WEIGHTS.format(20), 20),
        (f"{job['id']}@step-000010", WEIGHTS.format(10), 10),
    ]
    # The base model gets the chat format of the job, and all of them its prompt.
    assert {each["renderer"] for each in models} == {"fake"}
    config = found["config"]
    assert (config["system_prompt"], config["train_on"]) == ("Be brief.", "last_assistant_turn")
    assert (config["samples"], config["temperature"], config["max_tokens"]) == (1, 0.0, 512)
    assert (config["max_sequence_length"], config["split"]) == (32767, "train")


async def test_a_sandbox_cannot_choose_the_weights_that_its_next_attempt_gets_keys_for(
    api: Any,
) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    event = {"event_type": "log", "message": "x", "artifacts": {"models": [{"lineage": "other"}]}}

    refused = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)

    assert refused.status_code == 422
    assert "a sandbox cannot change it" in refused.json()["detail"]


async def test_old_clients_do_not_see_evaluations_in_lists(api: Any) -> None:
    await api.push()
    job = await api.job()
    found = await evaluation(api, MODEL)

    async def listed(query: str) -> tuple[list[str], int]:
        page = (await api("GET", f"{api.jobs}?{query}")).json()
        return [each["id"] for each in page["items"]], page["total"]

    assert await listed("page=1") == ([job["id"]], 1)
    assert await listed("evaluations=true") == ([found["id"], job["id"]], 2)
    assert await listed("trainer_type=eval") == ([found["id"]], 1)
    assert await listed("status=queued&evaluations=true") == ([found["id"], job["id"]], 2)


@pytest.mark.parametrize(
    ("models", "config", "place", "sentence"),
    [
        (["Qwen/Qwen3-8"], {}, "models", "Did you mean one of: Qwen/Qwen3-8B"),
        (["nothing"], {}, "models", "`nothing` cannot be evaluated: There is no model and no job"),
        (["sums@step-000099"], {}, "models", "it has `step-000020`"),
        (["openai/gpt-oss-20b"], {}, "models", "engine does not hold `openai/gpt-oss-20b`"),
        (["sums", "sums@step-000020"], {}, "models", "are the same weights"),
        (["sums", "other"], {}, "system_prompt", "different system prompts"),
        ([MODEL], {"dataset_ref": {"name": "no", "version": "1"}}, "dataset_ref", "no"),
        ([MODEL], {"max_sequence_length": 32768}, "max_sequence_length", "below 32768"),
        ([MODEL], {"loss": False}, None, "there is nothing to measure"),
        ([MODEL], {"samples": 2}, None, "`samples` has no effect without `reward_recipe`"),
        (
            [MODEL],
            {"reward_recipe": REWARD, "samples": 2, "temperature": 0},
            None,
            "the same completion each time",
        ),
        (
            [MODEL],
            {"reward_recipe": REWARD, "max_tokens": 40, "max_sequence_length": 40},
            "max_tokens",
            "no room for a prompt",
        ),
        ([MODEL], {"learning_rate": 1}, "learning_rate", "learning_rate"),
        ([], {}, "models", "`config.models`: this must not be empty"),
    ],
)
async def test_what_cannot_be_evaluated_is_refused_before_it_exists(
    api: Any, models: list[str], config: dict[str, Any], place: str | None, sentence: str
) -> None:
    await api.push()
    await trained(api)
    if "other" in models:
        await trained(api, "other", "run-2", config={"system_prompt": "Be rude."})
    before = await api.count()

    refused = await api("POST", api.jobs, json=body(*models, **config))

    assert refused.status_code == 422, refused.text
    assert sentence in refused.json()["detail"]
    if place is not None:
        assert place in refused.json()["errors"][0]["loc"]
    assert await api.count() == before


async def test_strangers_have_no_models_and_readers_may_not_evaluate(api: Any) -> None:
    await api.push()
    job = await trained(api)

    path = "/org/other/ws/lab/training/jobs"
    stranger = await api("POST", path, key="stranger", json=body(job["id"]))
    reader = await api("POST", api.jobs, key="reader", json=body(job["id"]))

    assert stranger.status_code == 422
    assert "There is no model and no job" in stranger.json()["detail"]
    assert reader.status_code == 403


async def test_a_sandbox_gets_one_key_for_each_model(api: Any) -> None:
    await api.push()
    job = await trained(api)
    found = await evaluation(api, job["id"])
    async with api.database.reading() as session:
        row = await session.get_one(Job, found["id"])

    environment = describe_sandbox(api.settings, row, "acme", "lab", "key").environment

    keys = {name: key for name, key in environment.items() if name.startswith("TINKER_API_KEY")}
    subjects = {name: key.split(".")[1] for name, key in keys.items()}
    assert subjects == {
        "TINKER_API_KEY": found["id"],
        "TINKER_API_KEY_0": "base-models",
        "TINKER_API_KEY_1": job["id"],
    }
    assert keys["TINKER_API_KEY_1"].startswith(
        run_key("tml-master", job["id"], 0).rpartition(".")[0].rpartition(".")[0]
    )


async def test_the_result_comes_at_the_end_and_goes_with_the_job(api: Any) -> None:
    await api.push()
    found = await evaluation(api, MODEL)
    job, key = await api.start()
    path = f"{api.jobs}/{job['id']}"
    early = await api("GET", f"{path}/evaluation")
    figures = {"renderer": "fake", "rows": 8, "loss": FIGURE, "loss_tokens": 9, "reward": None}
    figures |= dict.fromkeys(
        ("completions", "truncated", "unfinished", "reward_errors", "sampled_tokens"), 0
    )
    result = {
        "dataset": "rows@1.0.0",
        "split": "train",
        "rows": 8,
        "confidence": 0.95,
        "models": [{**job["artifacts"]["models"][0], **figures}],
        "comparisons": [],
    }
    await upload(api, job, key, "evaluation/parts/000001.jsonl", b"{}\n")
    await upload(api, job, key, "evaluation/result.json", json.dumps(result).encode())
    await report(api, job, key, "training_end", metrics={"model_1/loss": 1.5})

    seen = await api("GET", f"{path}/evaluation", key="reader")
    files = (await api("GET", f"{path}/files")).json()["items"]
    async with api.database.writing() as session:
        (await session.get_one(Job, job["id"])).lease = None
    deleted = await api("DELETE", path)
    gone = await api("GET", f"{path}/evaluation")

    assert (early.status_code, early.json()["type"]) == (409, "conflict_error")
    assert seen.json()["models"][0]["loss"] == FIGURE
    assert seen.json()["job_id"] == found["id"]
    assert [each["path"] for each in files] == ["evaluation/result.json"]
    assert deleted.status_code == 200
    assert gone.status_code == 404


async def test_a_training_job_has_no_evaluation(api: Any) -> None:
    await api.push()
    job = await api.job()

    found = await api("GET", f"{api.jobs}/{job['id']}/evaluation")

    assert (found.status_code, "is not an evaluation" in found.json()["detail"]) == (404, True)


async def test_a_retry_keeps_the_finished_rows_unless_it_starts_over(api: Any) -> None:
    await api.push()
    await evaluation(api, MODEL)
    job, key = await api.start()
    await upload(api, job, key, "evaluation/parts/000001.jsonl", b"{}\n")
    await report(api, job, key, "training_error", error="broken", data={"code": "reward"})

    async def retried(**request: Any) -> list[str]:
        made = await api("POST", f"{api.jobs}/{job['id']}/retry", json=request)
        assert made.status_code == 201, made.text
        assert made.json()["artifacts"]["models"] == job["artifacts"]["models"]
        files = (await api("GET", f"{api.jobs}/{made.json()['id']}/files")).json()["items"]
        return [each["path"] for each in files]

    assert await retried() == ["evaluation/parts/000001.jsonl"]
    assert await retried(from_start=True) == []


async def test_an_evaluation_is_checked_and_priced_without_being_created(api: Any) -> None:
    await api.push()

    found = await api("POST", "/org/acme/ws/lab/training/preflight", json=body(MODEL))
    compared = await api(
        "POST", "/org/acme/ws/lab/training/preflight?compare=true", json=body(MODEL)
    )

    assert found.status_code == 200, found.text
    assert found.json()["model"]["tinker_id"] == MODEL
    assert found.json()["config"]["train_on"] == "all_assistant_messages"
    assert compared.status_code == 422
    assert await api.count() == 0


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ([MODEL, "openai/gpt-oss-20b"], "have different prices, so the cost"),
        ([MODEL, "UNPUBLISHED"], "The catalog has no published price of `UNPUBLISHED`"),
    ],
)
def test_several_models_without_a_common_price_are_refused_with_the_true_reason(
    database_url: str, models: list[str], why: str
) -> None:
    entry = get_training_model(MODEL)
    assert entry is not None
    found = EvaluatedModels([{"model": each} for each in models], entry, False, Rates(""), 1, {})

    with pytest.raises(Invalid, match=re.escape(why)):
        check_common_price(found)
