"""Jobs that start from weights: of another job, or of an adapter that was uploaded."""

import json
from datetime import timedelta
from typing import Any

import pytest
from dreadnode_api.jobs.dispatcher import describe_sandbox
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.models.adapters import UploadedAdapter
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import Job
from sqlalchemy import update

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MODEL = "Qwen/Qwen3-8B"
PATH = "tinker://run-1/weights/step-{:06d}"
ADAPTERS = "/org/acme/ws/lab/training/adapters"


async def report(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> Any:
    event = {"event_type": kind, **more}
    return await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)


async def trained(api: Any, **changes: Any) -> dict[str, Any]:
    """A job that has ended with two checkpoints and weights to sample from."""
    await api.push()
    await api.job(name="sums", **changes)
    job, key = await api.start()
    for step in (10, 20):
        artifacts = {"latest_checkpoint": PATH.format(step)}
        await report(api, job, key, "checkpoint_saved", data={"step": step}, artifacts=artifacts)
    artifacts = {
        "latest_checkpoint": PATH.format(20),
        "sampler_checkpoint": "tinker://run-1/sampler_weights/final",
    }
    await report(api, job, key, "training_end", artifacts=artifacts)
    return dict(job)


async def start_from(api: Any, name: str, **changes: Any) -> Any:
    config = {"from_adapter": name, **changes.pop("config", {})}
    return await api.create(config=config, **changes)


async def upload(api: Any, config: dict[str, Any], model: str = MODEL, **more: Any) -> Any:
    # Larger than a body of JSON may be, as the weights of most adapters are.
    weights = bytes(2 * api.settings.max_json_bytes)
    files = {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": weights}
    parts = {name: (name, content) for name, content in files.items()}
    return await api("POST", ADAPTERS, params={"model": model}, files=parts, **more)


async def test_a_job_takes_rank_and_layers_from_the_weights_and_gets_a_key_for_them(
    api: Any,
) -> None:
    source = await trained(api, config={"lora_rank": 4, "train_unembed": False})

    for name, step in (("sums", 20), (f"{source['id']}@step-000010", 10), (PATH.format(10), 10)):
        job = (await start_from(api, name)).json()
        config = job["config"]
        assert config["from_adapter"] == PATH.format(step)
        assert (config["lora_rank"], config["train_unembed"]) == (4, False)
        assert job["artifacts"]["from_adapter"]["job_id"] == source["id"]
    async with api.database.reading() as session:
        row = await session.get_one(Job, job["id"])
    environment = describe_sandbox(api.settings, row, "acme", "lab", "key").environment
    assert environment["TINKER_API_KEY"].split(".")[1] == job["id"]
    assert environment["TINKER_API_KEY_0"].split(".")[1] == source["id"]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nothing", {}, "No job can start from `nothing`: There is no model and no job"),
        ("sums@step-000099", {}, "The job has no checkpoint `step-000099`; it has"),
        ("tinker://run-1/sampler_weights/final", {}, "it can only be sampled from"),
        ("tinker://run-9/weights/x", {}, "Your organization has no checkpoint"),
        ("sums", {"config": {"lora_rank": 8}}, "`lora_rank` is 8, and the adapter of"),
        ("sums", {"config": {"train_mlp": False}}, "`train_mlp` is false, and the adapter of"),
        ("sums", {"model": "meta-llama/Llama-3.1-8B"}, "are for `Qwen/Qwen3-8B`, and this job"),
    ],
)
async def test_weights_that_do_not_fit_are_refused_before_a_job_exists(
    api: Any, engine: Any, name: str, changes: Any, words: str
) -> None:
    engine.models.append({"model_name": "meta-llama/Llama-3.1-8B", "trainable": True})
    await trained(api, config={"lora_rank": 4})
    before = await api.count()

    refused = await start_from(api, name, **changes)

    assert refused.status_code == 422
    assert words in refused.text.replace('\\"', '"')
    assert await api.count() == before


async def test_a_rehearsal_of_other_shapes_starts_with_a_new_adapter_and_says_so(api: Any) -> None:
    source = await trained(api, config={"lora_rank": 4})

    job = (await start_from(api, "sums", rehearse=True)).json()

    assert (job["rehearsal"], job["config"]["lora_rank"]) == (True, 4)
    assert "from_adapter" not in job["artifacts"]
    (warning,) = [w for w in job["preflight"]["warnings"] if w["code"] == "from_adapter"]
    assert warning["message"].startswith("The rehearsal starts with a new adapter of rank 4")
    assert source["id"] != job["id"]


async def test_an_uploaded_adapter_starts_jobs_of_its_organization_until_it_expires(
    api: Any,
) -> None:
    await api.push()
    stored = await upload(api, {"r": 6}, key="member")
    assert stored.status_code == 201, stored.text
    adapter = stored.json()

    job = (await start_from(api, adapter["path"])).json()

    assert (adapter["lora_rank"], adapter["new_layers"]) == (6, ["k_proj"])
    assert (job["config"]["lora_rank"], job["config"]["train_unembed"]) == (6, False)
    assert job["artifacts"]["from_adapter"]["job_id"] is None
    foreign = await api(
        "POST",
        "/org/other/ws/lab/training/jobs",
        key="stranger",
        json={"model": MODEL, "trainer_type": "sft", "config": job["config"]},
    )
    assert foreign.status_code == 422
    async with api.database.writing() as session:
        await session.execute(update(UploadedAdapter).values(expires_at=now() - timedelta(days=1)))
    expired = await start_from(api, adapter["path"])
    assert "has expired; upload it again" in expired.text
    assert (await Cleanup(api.settings, api.database, None).once())["uploaded adapters"] == 1


async def test_an_upload_that_cannot_be_used_is_refused(api: Any) -> None:
    refused = await upload(api, {"refuse": "The adapter has the rank 8"})
    unknown = await upload(api, {"r": 4}, model="Qwen/Qwen3-4B")
    reader = await upload(api, {"r": 4}, key="reader")
    one = {"adapter_config.json": ("adapter_config.json", b"{}")}
    half = await api("POST", ADAPTERS, params={"model": MODEL}, files=one)
    odd = await api("POST", ADAPTERS, params={"model": MODEL}, files={"../x": ("x", b"{}")})
    plain = await api("POST", ADAPTERS, params={"model": MODEL}, content=b"{}")

    assert (refused.status_code, reader.status_code) == (422, 403)
    assert "The adapter has the rank 8" in refused.text
    assert "has no weights for `Qwen/Qwen3-4B`" in unknown.text
    assert "lacks adapter_model.safetensors" in half.text
    assert "Send one part for each of" in odd.text
    assert plain.status_code == 400
    async with api.database.reading() as session:
        assert await session.get(UploadedAdapter, "") is None


@pytest.mark.parametrize("kind", ["job", "evaluation"])
async def test_a_checkpoint_that_an_unfinished_job_reads_is_neither_deleted_nor_expires(
    api: Any, kind: str
) -> None:
    source = await trained(api)
    if kind == "job":
        reader = await start_from(api, "sums@step-000010")
    else:
        config = {
            "models": ["sums@step-000010"],
            "dataset_ref": {"name": "rows", "version": "1.0.0"},
        }
        reader = await api("POST", api.jobs, json={"trainer_type": "eval", "config": config})
    assert reader.status_code == 201, reader.text
    path = f"{api.jobs}/{source['id']}"
    async with api.database.writing() as session:
        # Its sandbox has ended.
        await session.execute(update(Job).where(Job.id == source["id"]).values(lease=None))

    one = await api("DELETE", f"{path}/checkpoints/step-000010")
    whole = await api("DELETE", path)
    settings = api.settings.model_copy(update={"checkpoints_kept": 1})
    await Cleanup(settings, api.database, None).once()

    for refused in (one, whole):
        assert refused.status_code == 409
        assert f"The job `{reader.json()['id']}` is queued and reads the checkpoint" in refused.text
    async with api.database.reading() as session:
        row = await session.get_one(Checkpoint, (source["id"], PATH.format(10)))
        assert row.state == "ready"
    await api("POST", f"{api.jobs}/{reader.json()['id']}/cancel")
    assert (await api("DELETE", f"{path}/checkpoints/step-000010")).status_code == 200


async def test_a_retry_resumes_from_its_own_checkpoint_and_starts_over_only_with_the_weights(
    api: Any,
) -> None:
    source = await trained(api)
    await start_from(api, "sums@step-000010")
    job, key = await api.start()
    changed = await report(api, job, key, "log", artifacts={"from_adapter": {"path": "x"}})
    own = {"latest_checkpoint": "tinker://run-2/weights/step-000005"}
    await report(api, job, key, "checkpoint_saved", data={"step": 5}, artifacts=own)
    await report(api, job, key, "training_error", error="it broke", data={"fault": "job"})

    retry = (await api("POST", f"{api.jobs}/{job['id']}/retry")).json()
    await api("POST", f"{api.jobs}/{retry['id']}/cancel")
    deleted = await api("DELETE", f"{api.jobs}/{source['id']}/checkpoints/step-000010")
    over = await api("POST", f"{api.jobs}/{job['id']}/retry", json={"from_start": True})

    assert changed.status_code == 422
    assert retry["start_step"] == 5
    assert retry["artifacts"]["from_adapter"] == job["artifacts"]["from_adapter"]
    assert deleted.status_code == 200
    assert over.status_code == 409
    assert "starts from, `tinker://run-1/weights/step-000010`, have expired" in over.text
