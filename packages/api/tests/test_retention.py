"""What a server lets go of by itself, and what it never does."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from dreadnode_api.checkpoints.retention import Candidate, select_expired
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.jobs.records import end_job, lock
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.checks import StoredCheck
from dreadnode_api.models.jobs import Event, Job, Status
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

OLD = timedelta(days=1000)


class Weights:
    """An engine's checkpoints, by their ids within the run `run-1`, with their sizes."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.away = False
        route = Route("/api/v1/training_runs/run-1/checkpoints", self._list)
        one = Route(
            "/api/v1/training_runs/run-1/checkpoints/{id:path}", self._delete, methods=["DELETE"]
        )
        self._transport = httpx2.ASGITransport(Starlette(routes=[route, one]))

    async def _list(self, request: Request) -> Response:
        assert request.headers["x-api-key"] == "tml-master"
        found = [
            {"tinker_path": f"tinker://run-1/{i}", "size_bytes": n} for i, n in self.held.items()
        ]
        return JSONResponse({"checkpoints": found})

    async def _delete(self, request: Request) -> Response:
        if self.away:
            return Response(status_code=503)
        return Response(status_code=204 if self.held.pop(request.path_params["id"], None) else 404)

    def client(self) -> EngineClient:
        return EngineClient("http://engine", "tml-master", transport=self._transport)


@pytest.fixture
def weights() -> Weights:
    return Weights()


async def tidy(api: Any, weights: Weights, **settings: Any) -> dict[str, int]:
    return await Cleanup(
        api.settings.model_copy(update=settings), api.database, weights.client()
    ).once()


async def trained(api: Any, weights: Weights, steps: int, **end: Any) -> dict[str, Any]:
    """Run a job that saves `steps` checkpoints, the second being the best, and ends if told."""
    await api.push()
    await api.job(headers={"Idempotency-Key": "once"})
    job, key = await api.start()
    for step in range(1, steps + 1):
        weights.held[f"weights/{step:06d}"] = 100 + step
        path = f"tinker://run-1/weights/{step:06d}"
        artifacts = {"latest_checkpoint": path} | ({"best_checkpoint": path} if step == 2 else {})
        await tell(api, job, key, "checkpoint_saved", data={"step": step}, artifacts=artifacts)
    if end:
        weights.held["weights/final"] = 200
        artifacts = {"latest_checkpoint": "tinker://run-1/weights/final"}
        await tell(api, job, key, "training_end", artifacts=artifacts, **end["end"])
    return job


async def tell(api: Any, job: dict[str, Any], key: str, kind: str, **more: Any) -> None:
    path = f"{api.jobs}/{job['id']}/progress"
    answer = await api("POST", path, key=key, json={"event_type": kind, **more})
    assert answer.status_code == 200, answer.text


async def states(api: Any, job: dict[str, Any]) -> dict[str, str]:
    items = (await api("GET", f"{api.jobs}/{job['id']}/checkpoints")).json()["items"]
    return {c["path"].rsplit("/", 1)[-1]: c["state"] for c in items}


async def age_checkpoints(api: Any) -> None:
    async with api.database.writing() as session:
        for each in await session.scalars(select(Checkpoint)):
            each.created_at -= OLD
        for job in await session.scalars(select(Job).where(Job.completed_at.is_not(None))):
            job.completed_at -= OLD


async def test_only_the_newest_the_best_and_the_final_checkpoints_are_kept(
    api: Any, weights: Weights
) -> None:
    job = await trained(api, weights, 5, end={"message": "done"})

    done = await tidy(api, weights, checkpoints_kept=1)

    assert await states(api, job) == {
        "000001": "expired", "000002": "ready", "000003": "expired", "000004": "expired",
        "000005": "ready", "final": "ready",
    }  # fmt: skip
    assert sorted(weights.held) == ["weights/000002", "weights/000005", "weights/final"]
    assert (done["checkpoints"], done["checkpoints on the engine"]) == (3, 3)
    again = await tidy(api, weights, checkpoints_kept=1)
    assert (again["checkpoints"], again["checkpoints on the engine"]) == (0, 0)


@pytest.mark.parametrize(
    ("ending", "left"),
    [
        (None, ["000001", "000002", "000003", "000004"]),
        ("failed", ["000002", "000004"]),
        ("completed", ["000002", "final"]),
    ],
)
async def test_by_default_a_month_after_its_end_a_job_has_its_final_or_newest_and_best_checkpoint(
    api: Any, weights: Weights, ending: str | None, left: list[str]
) -> None:
    end = {"end": {"message": "done"}} if ending == "completed" else {}
    job = await trained(api, weights, 4, **end)
    if ending == "failed":
        async with api.database.writing() as session:
            await end_job(session, await lock(session, job["id"]), Status.FAILED, error="no")
    before = await tidy(api, weights)
    await age_checkpoints(api)

    await tidy(api, weights)

    assert before["checkpoints"] == 0
    assert [name for name, state in (await states(api, job)).items() if state == "ready"] == left


async def test_an_unreachable_engine_is_asked_again_and_no_deleted_checkpoint_is_shown_as_ready(
    api: Any, weights: Weights
) -> None:
    job = await trained(api, weights, 3, end={"message": "done"})
    weights.away = True
    await tidy(api, weights, checkpoints_kept=1)
    assert (await states(api, job))["000001"] == "expired"
    assert "weights/000001" in weights.held

    weights.away = False
    await tidy(api, weights, checkpoints_kept=1)

    assert "weights/000001" not in weights.held


async def test_the_sizes_of_checkpoints_are_read_from_the_engine(
    api: Any, weights: Weights
) -> None:
    job = await trained(api, weights, 2)

    await tidy(api, weights)

    items = (await api("GET", f"{api.jobs}/{job['id']}/checkpoints")).json()["items"]
    assert [c["bytes"] for c in items] == [101, 102]


@given(
    made=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 99)), max_size=12),
    kept=st.integers(0, 4),
    needed=st.sampled_from(["", "a", "ab"]),
    days=st.integers(0, 99),
)
def test_expiry_leaves_at_least_the_configured_number(
    made: list[tuple[str, int]], kept: int, needed: str, days: int
) -> None:
    start = now()
    held = [
        Candidate(
            *("job", str(i), line, start - timedelta(days=age)),
            ended_at=None if line in needed else start - timedelta(days=days),
            has_final=line == "a",
        )
        for i, (line, age) in enumerate(made)
    ]

    gone = select_expired(held, kept, start - timedelta(days=50))

    for line in "ab":
        left = [h for h in held if h.lineage == line and h not in gone]
        family = [h for h in held if h.lineage == line]
        assert len(left) <= max(kept or len(family), 1)
        if line not in needed and days > 50:
            assert len(left) == (1 if family and line == "b" else 0)
        if family and (line in needed or line == "b"):
            assert max(h.created_at for h in family) in [h.created_at for h in left]


def test_a_checkpoint_that_a_retry_started_from_counts_once_as_new() -> None:
    start = now()
    first = Candidate("first", "ten", "line", start - timedelta(hours=3), start, has_final=True)
    older = Candidate("first", "five", "line", start - timedelta(hours=4), start, has_final=True)
    again = Candidate("second", "ten", "line", start, start, has_final=True)
    later = Candidate("second", "twenty", "line", start - timedelta(hours=1), start, has_final=True)

    assert select_expired([first, older, again, later], 2, None) == [older]
    assert {each.path for each in select_expired([first, older, again, later], 1, None)} == {
        "five",
        "twenty",
    }


async def age(api: Any, job: dict[str, Any]) -> None:
    """Let a job have ended long ago."""
    async with api.database.writing() as session:
        old = now() - OLD
        values = {"created_at": old, "completed_at": old}
        await session.execute(update(Job).where(Job.id == job["id"]).values(**values))


async def test_old_logs_and_idempotency_keys_are_deleted_and_the_job_keeps_its_states_and_metrics(
    api: Any, weights: Weights
) -> None:
    job = await trained(api, weights, 3, end={"metrics": {"train/loss_last": 0.5}})
    await age(api, job)
    before = (await api("GET", f"{api.jobs}/{job['id']}")).json()

    done = await tidy(api, weights)

    assert done["log lines, events and rollouts"] > 0
    assert done["idempotency keys"] == 1
    async with api.database.reading() as session:
        left = (await session.scalars(select(Event.data).order_by(Event.number))).all()
    assert [data["status"] for data in left] == ["queued", "running", "completed"]
    after = (await api("GET", f"{api.jobs}/{job['id']}")).json()
    assert after["metrics"] == before["metrics"] == {"train/loss_last": 0.5}
    assert after["updated_at"] == before["updated_at"]


async def test_young_and_unfinished_jobs_are_kept_completely(api: Any, weights: Weights) -> None:
    job = await trained(api, weights, 3)
    folder = api.settings.data_dir / "jobs" / job["id"] / "1"
    folder.mkdir(parents=True)
    async with api.database.writing() as session:
        await session.execute(update(Job).values(created_at=now() - OLD, idempotency_key=None))
        events = await session.scalar(select(func.count()).select_from(Event))

    done = await tidy(api, weights)

    assert (done["log lines, events and rollouts"], done["sandbox folders"]) == (0, 0)
    async with api.database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(Event)) == events
    assert folder.exists()


async def test_the_folders_of_old_jobs_are_deleted_and_those_of_unknown_jobs_are_kept(
    api: Any, weights: Weights
) -> None:
    job = await trained(api, weights, 1, end={"message": "done"})
    async with api.database.writing() as session:
        await session.execute(update(Job).values(lease=None))
    await age(api, job)
    ours, unknown = (api.settings.data_dir / "jobs" / name for name in (job["id"], "unknown"))
    for folder in (ours, unknown):
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "output.log").write_text("text")

    await tidy(api, weights)

    assert (ours.exists(), unknown.exists()) == (False, True)


async def test_an_unreachable_engine_stops_no_other_cleanup(
    api: Any, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    job = await trained(api, weights, 1, end={"message": "done"})
    await age(api, job)
    nobody = EngineClient("http://127.0.0.1:1", "tml-master")

    done = await asyncio.wait_for(Cleanup(api.settings, api.database, nobody).once(), 30)

    assert done["log lines, events and rollouts"] > 0
    assert "engine" in caplog.text


async def test_old_results_of_checks_are_deleted_and_newer_ones_are_kept(
    api: Any, weights: Weights
) -> None:
    await api.push()
    job = await api.job()
    async with api.database.writing() as session:
        for key, days in (("old", 31), ("young", 29)):
            made = now() - timedelta(days=days)
            session.add(
                StoredCheck(key=key, org_id=job["organization_id"], report={}, created_at=made)
            )

    done = await tidy(api, weights)
    kept = await tidy(api, weights, idempotency_days=0)

    async with api.database.reading() as session:
        keys = set(await session.scalars(select(StoredCheck.key)))
    assert (done["results of checks"], kept["results of checks"]) == (1, 0)
    assert "young" in keys
    assert "old" not in keys
