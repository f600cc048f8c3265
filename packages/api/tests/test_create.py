"""A job is refused before anything exists, or it is queued."""

import asyncio
import hashlib
import json
from typing import Any

import httpx2
import psutil
import pytest
from dreadnode_api.errors import Invalid
from dreadnode_api.models.jobs import Job
from dreadnode_api.training.checks import require_memory
from dreadnode_api.training.schemas import SftJobRequest

MODEL = "Qwen/Qwen3-8B"
STAND_IN = "stand-in/SmolLM2-135M-Instruct"
RETIRED = "meta-llama/Llama-3.2-1B"

REFUSALS: dict[str, tuple[dict[str, Any], int, list[str], str]] = {
    "a near miss": (
        {"model": "meta-llama/Llama-3.1-8B-Instruc"},
        422,
        ["body", "model"],
        (
            "Unknown training base model 'meta-llama/Llama-3.1-8B-Instruc'.\n"
            "Did you mean one of: meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B?"
        ),
    ),
    "a far miss under the other name": (
        {"model": ..., "base_model": "zzzzzzzz"},
        422,
        ["body", "base_model"],
        "Unknown training base model 'zzzzzzzz'.\nSee `dn train catalog`.",
    ),
    "no model": (
        {"model": ...},
        422,
        ["body"],
        "`body`: name the base model in `model`; `dn train catalog` lists them",
    ),
    "two models": (
        {"base_model": RETIRED},
        422,
        ["body"],
        "`body`: `model` and `base_model` are one field; give one, or both alike",
    ),
    "a misspelt field": (
        {"config": {"step": 3}},
        422,
        ["body", "config", "step"],
        "`config.step`: unknown field; remove it or correct its name",
    ),
    "steps out of range": (
        {"config": {"steps": 0}},
        422,
        ["body", "config", "steps"],
        "`config.steps`: input should be greater than or equal to 1",
    ),
    "lora_alpha": (
        {"config": {"lora_alpha": 32}},
        422,
        ["body", "config"],
        "`config`: leave `lora_alpha` out: Tinker fixes it, so that a value would have no effect",
    ),
    "ray": (
        {"backend": "ray"},
        422,
        ["body", "backend"],
        (
            "The backend `ray` is not offered here; use `tinker`, with the algorithm "
            "`importance_sampling` or `ppo` in place of `grpo`"
        ),
    ),
    "a retired model without weights": (
        {"model": RETIRED},
        422,
        ["body", "model"],
        (
            f"This server's engine has no weights for `{RETIRED}`, which hosted Tinker retired on "
            "2026-06-12 in favour of `Qwen/Qwen3.5-9B-Base`; "
            "add `--rehearse` to try the job on a small stand-in"
        ),
    ),
    "an active model without weights": (
        {"model": "Qwen/Qwen3.5-4B"},
        422,
        ["body", "model"],
        (
            "This server's engine has no weights for `Qwen/Qwen3.5-4B`; "
            "add `--rehearse` to try the job on a small stand-in"
        ),
    ),
    "a dataset that does not exist": (
        {"config": {"dataset_ref": {"name": "nothing", "version": "1.0.0"}}},
        422,
        ["body", "config", "dataset_ref"],
        "This organization has no dataset `nothing`; see `dn dataset list`",
    ),
    "a version that does not exist": (
        {"config": {"dataset_ref": {"name": "rows", "version": "9.9.9"}}},
        422,
        ["body", "config", "dataset_ref"],
        "The dataset `rows` does not have the version `9.9.9`; its newest are `1.0.0`",
    ),
    "a capability that does not exist": (
        {"capability_ref": {"name": "agent", "version": "1.0.0"}},
        422,
        ["body", "capability_ref"],
        (
            "This organization has no capability `agent`; "
            "see `dn capability list`, or leave `capability_ref` out"
        ),
    ),
    "sequences longer than the context": (
        {"config": {"max_sequence_length": 10_000_000}},
        422,
        ["body", "config", "max_sequence_length"],
        f"`max_sequence_length` is 10000000, and `{MODEL}` takes at most 32768 tokens",
    ),
    "data in which no row renders": (
        {"config": {"dataset_ref": {"name": "useless", "version": "1.0.0"}}},
        422,
        ["body", "config", "dataset_ref"],
        "None of the 1 rows can be trained on",
    ),
    "square brackets in a name": (
        {"name": "run [/1]"},
        422,
        ["body", "name"],
        "`name`: remove the square brackets; some clients read them as markup",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_refused_request_leaves_no_job_and_no_process(api: Any, case: str) -> None:
    changes, status, loc, detail = REFUSALS[case]
    others = set(psutil.Process().children(recursive=True))
    await api.push()
    await api.push("useless", body=b'{"nothing": "here"}\n')

    refused = await api.create(**changes)

    assert refused.status_code == status
    body = refused.json()
    assert (body["code"], body["type"], body["detail"]) == (422, "validation_error", detail)
    assert body["errors"][0]["loc"] == loc
    assert await api.count() == 0
    # The process that checks data stays warm, and nothing else does.
    await api.app.state.preflight.close()
    assert set(psutil.Process().children(recursive=True)) <= others
    assert not (api.settings.data_dir / "jobs").exists()


async def test_a_lora_rank_above_the_engines_limit_is_refused(api: Any, engine: Any) -> None:
    engine.models[0]["max_lora_rank"] = 8
    await api.push()

    refused = await api.create(config={"lora_rank": 9})

    assert refused.status_code == 422
    assert refused.json()["detail"] == f"`lora_rank` is 9, and `{MODEL}` takes at most 8"


async def test_the_last_layer_is_trained_unless_the_model_ties_it_to_its_embeddings(
    api: Any, engine: Any
) -> None:
    engine.models[0]["tied_embeddings"] = True
    await api.push()

    default = (await api.create()).json()["config"]
    wanted = (await api.create(config={"train_unembed": True})).json()["config"]
    useless = await api.create(config={"train_mlp": False, "train_attn": False})
    nothing = await api.create(
        config={"train_mlp": False, "train_attn": False, "train_unembed": False}
    )

    assert (default["train_mlp"], default["train_attn"]) == (True, True)
    assert (default["train_unembed"], wanted["train_unembed"]) == (False, True)
    assert useless.status_code == nothing.status_code == 422
    assert useless.json()["detail"].startswith("With `train_mlp` and `train_attn` off, set `train")
    assert "has nothing to train" in nothing.json()["detail"]


MEMORY = {
    "fixed_bytes": 2 << 30, "bytes_per_rank": 1 << 26, "bytes_per_token": 1 << 20,
    "micro_batch_tokens": 512, "budget_bytes": 3 << 30, "dtype": "float32",
}  # fmt: skip


async def test_a_job_that_the_engine_has_no_memory_for_is_refused_before_it_is_accepted(
    api: Any, engine: Any
) -> None:
    engine.models[0]["memory"] = MEMORY
    await api.push()

    refused = await api.create(config={"lora_rank": 17})
    with pytest.raises(Invalid) as too_long:
        await require_memory(
            engine.client(), MODEL, {"lora_rank": 1}, {"lengths": {"min": 1, "max": 1800}}
        )

    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        f"Training `{MODEL}` with `lora_rank` 17 needs about 3.1 GiB of memory, and this server's "
        "engine may use 3.0 GiB now; free memory on its machine, or choose a smaller model or rank"
    )
    assert await api.count() == 0
    assert "`lora_rank` 1 on rows of up to 1800 tokens needs about 3.3 GiB" in str(too_long.value)
    assert str(too_long.value).endswith("or lower `max_sequence_length`")
    engine.models[0]["memory"] = MEMORY | {"budget_bytes": 5 << 30}
    assert (await api.create()).status_code == 201


async def test_a_valid_job_is_queued_with_every_default_resolved(api: Any) -> None:
    await api.push()

    created = await api.create(name="first", tags=["a"])

    assert created.status_code == 201
    job = created.json()
    assert job["status"] == "queued"
    assert job["phase"] == "waiting for capacity"
    assert (job["model"], job["base_model"], job["trained_model"]) == (MODEL, MODEL, MODEL)
    assert job["rehearsal"] is False
    assert job["capability"] == {
        "name": "none", "version": "0.0.0", "artifact_id": None, "runtime_digest": None,
    }  # fmt: skip
    assert job["config"] == {
        "dataset_ref": {"name": "rows", "version": "1.0.0"},
        "split": "train",
        "trajectory_dataset_refs": [],
        "max_sequence_length": 2048,
        "batch_size": 16,
        "gradient_accumulation_steps": 1,
        "epochs": 1,
        "lora_rank": 16,
        "train_mlp": True,
        "train_attn": True,
        "train_unembed": True,
        "learning_rate": 1e-4,
        "checkpoint_interval": 10,
        "seed": 0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_eps": 1e-8,
        "learning_rate_schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
        "train_on": "all_assistant_messages",
        "format": "conversations",
        "packed": False,
        "shuffle": True,
        "strict": False,
    }
    assert job["dataset_ref"] == {"name": "rows", "version": "1.0.0"}
    assert (job["preflight"]["rows"], job["preflight"]["usable"]) == (8, 8)
    assert job["attempt"] == 0
    assert job["created_by_email"] == "admin@example.com"
    assert await api.count() == 1


@pytest.mark.parametrize(
    ("setting", "needed"),
    [
        ({"eval_interval": 5}, "eval_dataset_ref"),
        ({"early_stopping_patience": 2}, "eval_interval"),
        ({"early_stopping_min_delta": 0.1}, "early_stopping_patience"),
    ],
)
async def test_a_setting_without_the_one_it_needs_is_refused(
    api: Any, setting: dict[str, Any], needed: str
) -> None:
    await api.push()

    refused = await api.create(config=setting)

    assert refused.status_code == 422
    assert f"has no effect without `{needed}`" in refused.json()["detail"]
    assert await api.count() == 0


async def test_trajectories_are_trained_on_with_the_dataset_and_alone(api: Any) -> None:
    await api.push()
    ref = {"name": "rows", "version": "1.0.0"}

    both = await api.create(config={"trajectory_dataset_refs": [ref]})
    alone = await api.create(config={"dataset_ref": None, "trajectory_dataset_refs": [ref]})

    assert (both.status_code, alone.status_code) == (201, 201)
    roles = [[d["role"] for d in job.json()["preflight"]["datasets"]] for job in (both, alone)]
    assert roles == [["train", "trajectories"], ["trajectories"]]
    assert alone.json()["trajectory_dataset_refs"] == [ref]
    assert alone.json()["dataset_ref"] is None


async def test_a_job_without_any_data_is_refused(api: Any) -> None:
    refused = await api.create(config={"dataset_ref": None})

    assert refused.status_code == 422
    assert "name the training dataset in `dataset_ref`" in refused.json()["detail"]


async def test_a_job_from_before_a_setting_gets_the_settings_default(api: Any) -> None:
    await api.push()
    job = (await api.create()).json()
    async with api.database.writing() as session:
        stored = await session.get(Job, job["id"])
        stored.config = {k: v for k, v in stored.config.items() if k not in ("format", "strict")}

    shown = (await api("GET", f"{api.jobs}/{job['id']}")).json()

    assert (shown["config"]["format"], shown["config"]["strict"]) == ("conversations", False)


async def test_requests_of_old_clients_are_understood(api: Any) -> None:
    await api.push()

    created = await api.create(
        base_model=MODEL,
        backend="tinker",
        capability_ref={"name": "none", "version": "0.0.0"},
        tags=[],
        config={"trajectory_dataset_refs": []},
    )

    assert created.status_code == 201


async def test_a_rehearsal_trains_the_stand_in_and_says_so(api: Any) -> None:
    await api.push()

    job = await api.job(model=RETIRED, rehearse=True)

    assert (job["model"], job["trained_model"]) == (RETIRED, STAND_IN)
    assert job["rehearsal"] is True


async def test_the_stand_in_is_not_a_model_of_the_catalog(api: Any) -> None:
    await api.push()

    refused = await api.create(model=STAND_IN)

    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(f"Unknown training base model '{STAND_IN}'.\n")


async def test_a_rehearsal_needs_a_stand_in(api: Any, engine: Any) -> None:
    del engine.models[1]
    await api.push()

    refused = await api.create(rehearse=True)

    assert refused.status_code == 422
    assert "has no stand-in model" in refused.json()["detail"]
    assert await api.count() == 0


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (httpx2.ConnectError("refused"), 502, "bad_gateway_error"),
        (httpx2.ReadTimeout("slow"), 504, "gateway_timeout_error"),
        (None, 502, "bad_gateway_error"),
    ],
)
async def test_an_unreachable_engine_is_distinguished_from_a_refusal(
    api: Any, engine: Any, failure: Exception | None, status: int, kind: str
) -> None:
    engine.failure, engine.status = failure, 503
    await api.push()

    refused = await api.create()

    assert (refused.status_code, refused.json()["type"]) == (status, kind)
    assert await api.count() == 0


async def test_the_server_is_ready_when_its_engine_is_and_a_job_right_after_is_created(
    api: Any, engine: Any
) -> None:
    await api.push()
    engine.failure = httpx2.ConnectError("refused")
    starting = await api.client.get("/health/ready")
    engine.failure = None

    ready = await api.client.get("/health/ready")
    created = await api.create()

    assert [each.status_code for each in (starting, ready, created)] == [503, 200, 201]


async def test_an_unknown_model_is_refused_without_asking_the_engine(api: Any, engine: Any) -> None:
    await api.create(model="zzz")

    assert engine.asked == 0


async def test_a_crashing_check_is_a_500_and_leaves_no_job(api: Any) -> None:
    await api.push()

    answer = await api.create(config={"system_prompt": json.dumps({"check": "crash"})})

    assert answer.status_code == 500
    assert answer.json()["type"] == "server_error"
    assert "broke" not in answer.text
    assert await api.count() == 0


async def test_a_hanging_check_is_stopped_with_all_its_child_processes(api: Any) -> None:
    others = set(psutil.Process().children(recursive=True))
    await api.push()
    object.__setattr__(api.settings, "preflight_timeout", 1.0)

    refused = await api.create(config={"system_prompt": json.dumps({"check": "hang"})})

    assert refused.status_code == 422
    assert "took longer than 1 seconds" in refused.json()["detail"]
    assert await api.count() == 0
    async with asyncio.timeout(20):
        while not set(psutil.Process().children(recursive=True)) <= others:
            await asyncio.sleep(0.02)


async def test_a_check_gets_no_key_and_no_token(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREADNODE_ENGINE_KEY", "tml-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await api.push()

    refused = await api.create(config={"system_prompt": json.dumps({"check": "environment"})})

    names = set(refused.json()["detail"].split())
    assert names <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PYTHONUNBUFFERED", "TMPDIR"}


async def test_the_same_idempotency_key_and_body_return_the_first_job(api: Any) -> None:
    await api.push()

    first = await api.create(headers={"Idempotency-Key": "k1"})
    again = await api.create(headers={"Idempotency-Key": "k1"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert await api.count() == 1


async def test_the_same_idempotency_key_with_another_body_is_a_conflict(api: Any) -> None:
    await api.push()
    await api.create(headers={"Idempotency-Key": "k1"})

    other = await api.create(name="other", headers={"Idempotency-Key": "k1"})

    assert (other.status_code, other.json()["type"]) == (409, "conflict_error")
    assert await api.count() == 1


async def test_an_idempotency_key_stays_valid_when_a_setting_is_added(api: Any) -> None:
    class Newer(SftJobRequest):
        added_later: bool | None = None

    await api.push()
    made = await api.create(headers={"Idempotency-Key": "k1"})
    body = json.loads(made.request.content)

    async with api.database.reading() as session:
        stored = await session.get(Job, made.json()["id"])
    sent = Newer.model_validate(body).model_dump_json(exclude_unset=True)

    assert stored.request_sha256 == hashlib.sha256(sent.encode()).hexdigest()


async def test_concurrent_requests_with_one_idempotency_key_create_one_job(api: Any) -> None:
    await api.push()

    answers = await asyncio.gather(
        *(api.create(headers={"Idempotency-Key": "k1"}) for _ in range(4))
    )

    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await api.count() == 1
