"""Jobs from the queue to their end, with real processes and real signals."""

import json
import signal
from itertools import pairwise
from typing import Any

import psutil
import pytest

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what depends on a sandbox and its supervisor; other tests store its end in both."""


def wish(behave: str, **more: Any) -> dict[str, Any]:
    """A config whose sandbox behaves as told."""
    steps = more.pop("steps", 3)
    return {"system_prompt": json.dumps({"behave": behave, **more}), "steps": steps}


async def test_a_job_trains_reports_and_leaves_its_adapter(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config={"steps": 3})

    done = await service.ended(job["id"])

    assert (done["status"], done["attempt"], done["phase"]) == ("completed", 1, None)
    assert done["progress"] == {
        "step": 3, "steps": 3, "tokens": 30, "loss": 1 / 3, "seconds_left": 0.5,
        "reward": None, "eval_loss": None, "eval_reward": None,
    }  # fmt: skip
    assert done["metrics"] == {"train/steps": 3}
    assert done["artifacts"] == {"adapter": "adapter/"}
    files = await service.api("GET", f"{service.api.jobs}/{job['id']}/files/adapter/README.md")
    assert files.content == b"# adapter"
    await service.gone()
    service.send("dispatch", signal.SIGTERM)
    assert not (service.api.settings.data_dir / "jobs" / job["id"] / "1" / "work").exists()


@one_database
async def test_a_sandbox_gets_exactly_the_environment_it_needs(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()

    job = await service.api.job(config=wish("environment"))

    await service.ended(job["id"])
    names = (await service.log(job["id"]))[0].split()
    assert set(names) - {"LC_CTYPE"} == {
        "DREADNODE_API_KEY", "DREADNODE_JOB_ATTEMPT", "DREADNODE_ORGANIZATION", "DREADNODE_SERVER",
        "DREADNODE_WORKSPACE", "HOME", "LANG", "PATH", "PYTHONUNBUFFERED", "TINKER_API_KEY",
        "TINKER_BASE_URL", "TINKER_TELEMETRY", "TMPDIR",
    }  # fmt: skip


@one_database
async def test_a_job_that_fails_by_itself_is_reported_and_not_retried(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("fail"))

    done = await service.ended(job["id"])

    assert (done["status"], done["attempt"]) == ("failed", 1)
    assert done["error"] == "The loss is not a number (row 3)"
    assert done["error_code"] == "diverged"


@pytest.mark.parametrize("behaviour", [{"behave": "exit", "code": 75}, {"behave": "kill"}])
async def test_an_infrastructure_failure_is_retried_and_visible(
    service: Any, behaviour: dict[str, Any]
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish(**behaviour, attempts=1))

    done = await service.ended(job["id"])

    assert (done["status"], done["attempt"]) == ("completed", 2)
    log = await service.log(job["id"])
    assert any(line.startswith("Attempt 1 ended: ") for line in log)


async def test_the_tokens_of_killed_attempts_are_counted_from_what_they_left(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish(behave="kill", attempts=2))

    done = await service.ended(job["id"])

    assert (done["status"], done["attempt"]) == ("completed", 3)
    assert done["cost"]["tokens"] == {
        "prefill": 2,
        "cached_prefill": 4,
        "sample": 6,
        "train": 12,
    }


async def test_the_number_of_attempts_is_limited(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("exit", code=75))

    done = await service.ended(job["id"])

    assert (done["status"], done["attempt"]) == ("failed", 3)
    assert done["error_code"] == "attempts_used_up"


@one_database
@pytest.mark.parametrize(
    ("code", "error_code"), [(0, "ended_without_report"), (1, "sandbox_failed")]
)
async def test_an_unreported_end_fails_the_job_and_quotes_its_output_without_keys(
    service: Any, code: int, error_code: str
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("exit", code=code))

    done = await service.ended(job["id"])

    assert (done["status"], done["error_code"]) == ("failed", error_code)
    assert "attempt 1, key ***" in "\n".join(done["error_log"])
    assert done["error_log"][-1] == done["error"]
    log = "\n".join(await service.log(job["id"]))
    assert "attempt 1, key ***" in log
    assert "dnj_" not in log


async def test_cancelling_a_queued_job_ends_it_immediately(service: Any) -> None:
    service.start("serve")
    await service.api.push()
    job = await service.api.job()

    cancelled = await service.api("POST", f"{service.api.jobs}/{job['id']}/cancel")

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    service.start("dispatch")
    assert (await service.ended(job["id"]))["attempt"] == 0


async def test_a_cancelled_running_job_saves_first(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=1000))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    asked = await service.api("POST", f"{service.api.jobs}/{job['id']}/cancel")

    assert asked.json()["cancel_requested_at"] is not None
    assert asked.json()["phase"] == "cancelling"
    done = await service.ended(job["id"])
    assert done["status"] == "cancelled"
    assert done["artifacts"] == {"checkpoints": ["x"]}
    await service.gone()


@one_database
@pytest.mark.parametrize("behave", ["ignore_cancel", "ignore_everything"])
async def test_a_sandbox_that_ignores_a_cancellation_is_killed_with_all_its_child_processes(
    service: Any, behave: str
) -> None:
    for name in ("cancel_grace_seconds", "stop_grace_seconds"):
        object.__setattr__(service.api.settings, name, 0.2)
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish(behave, seconds=0.1, steps=10_000))
    await service.until(job["id"], lambda j: j.get("phase") == "training")

    await service.api("POST", f"{service.api.jobs}/{job['id']}/cancel")

    assert (await service.ended(job["id"]))["status"] == "cancelled"
    await service.gone()


async def test_a_new_dispatcher_adopts_the_sandbox_of_a_killed_one(
    service: Any,
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=30))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("dispatch", signal.SIGKILL)
    assert service.sandboxes()
    service.start("dispatch")

    done = await service.ended(job["id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    await service.gone()


async def test_a_job_that_ended_without_a_dispatcher_is_settled_by_the_next(
    service: Any,
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("exit", code=1))
    slow = await service.api.job(config=wish("well", seconds=0.1, steps=10))
    await service.until(slow["id"], lambda j: bool(j.get("progress")))
    service.send("dispatch", signal.SIGKILL)
    await service.gone()

    service.start("dispatch")

    assert (await service.ended(slow["id"]))["attempt"] == 1
    assert (await service.ended(job["id"]))["status"] == "failed"


async def test_a_job_whose_sandbox_died_with_its_dispatcher_is_queued_again(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=20))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("dispatch", signal.SIGKILL)
    for process in service.sandboxes():
        process.kill()
    service.start("dispatch")

    done = await service.ended(job["id"])
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert done["metrics"] == {"train/steps": 20}


async def test_a_stopping_dispatcher_stops_its_sandboxes_and_queues_their_jobs(
    service: Any,
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=20))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("dispatch", signal.SIGTERM)

    assert service.sandboxes() == []
    left = (await service.api("GET", f"{service.api.jobs}/{job['id']}")).json()
    assert (left["status"], left["attempt"]) == ("queued", 1)
    service.start("dispatch")
    assert (await service.ended(job["id"]))["attempt"] == 2


async def test_a_dispatcher_stopped_with_leave_keeps_its_sandboxes_for_the_next(
    service: Any,
) -> None:
    object.__setattr__(service.api.settings, "on_stop", "leave")
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=20))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("dispatch", signal.SIGTERM)

    assert service.processes["dispatch"][-1].returncode == 0
    assert service.sandboxes()
    service.start("dispatch")
    assert (await service.ended(job["id"]))["attempt"] == 1


async def test_a_dispatcher_whose_parent_died_keeps_its_sandboxes_for_the_next(
    service: Any,
) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=30))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.cut("dispatch")
    assert service.sandboxes()
    service.start("dispatch")

    assert (await service.ended(job["id"]))["attempt"] == 1


@one_database
async def test_an_orphaned_sandbox_ends_by_itself(service: Any) -> None:
    object.__setattr__(service.api.settings, "job_orphan_seconds", 1.0)
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=1000))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("dispatch", signal.SIGKILL)

    await service.gone()


async def test_a_job_continues_while_the_api_is_killed_and_restarted(service: Any) -> None:
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish("well", seconds=0.1, steps=20))
    await service.until(job["id"], lambda j: bool(j.get("progress")))

    service.send("serve", signal.SIGKILL)
    service.start("serve")

    done = await service.ended(job["id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert done["progress"]["step"] == 20


@one_database
async def test_the_api_ends_when_its_parent_died(service: Any) -> None:
    service.start("serve")

    service.cut("serve")

    assert service.processes["serve"][-1].returncode == 0


@one_database
@pytest.mark.parametrize(
    ("limits", "behaviour", "code"),
    [
        ({"job_wall_seconds": 1}, {"behave": "ignore_everything"}, "wall_time_exceeded"),
        (
            {"job_memory_bytes": 300_000_000},
            {"behave": "allocate", "bytes": 100_000_000, "times": 4},
            "memory_exceeded",
        ),
        ({"job_processes": 10}, {"behave": "fork", "times": 20}, "processes_exceeded"),
        ({"job_disk_bytes": 1_000_000}, {"behave": "write", "bytes": 2_000_000}, "disk_exceeded"),
    ],
)
async def test_a_job_above_its_limits_is_stopped_and_the_limit_is_named(
    service: Any, limits: dict[str, int], behaviour: dict[str, Any], code: str
) -> None:
    for name, value in limits.items():
        object.__setattr__(service.api.settings, name, value)
    service.start("serve", "dispatch")
    await service.api.push()
    job = await service.api.job(config=wish(**behaviour))

    done = await service.ended(job["id"])

    assert done["status"] == "failed"
    assert done["error_code"] == code
    await service.gone()


@one_database
async def test_output_is_kept_within_its_limit(service: Any) -> None:
    object.__setattr__(service.api.settings, "job_output_bytes", 100_000)
    service.start("serve", "dispatch")
    await service.api.push()

    job = await service.api.job(config=wish("print", times=2000))

    assert (await service.ended(job["id"]))["status"] == "completed"
    folder = service.api.settings.data_dir / "jobs" / job["id"] / "1"
    kept = sum(path.stat().st_size for path in folder.glob("output*.log"))
    assert 0 < kept < 200_000


async def test_two_dispatchers_share_the_queue_and_run_each_job_once(service: Any) -> None:
    service.start("serve", "dispatch", "dispatch")
    await service.api.push()
    jobs = [await service.api.job(config={"steps": 2}) for _ in range(6)]

    done = [await service.ended(job["id"]) for job in jobs]

    assert [(job["status"], job["attempt"]) for job in done] == [("completed", 1)] * 6


async def test_a_workspaces_limit_holds_across_dispatchers(service: Any) -> None:
    object.__setattr__(service.api.settings, "jobs_at_once_per_workspace", 1)
    service.start("serve", "dispatch", "dispatch")
    await service.api.push()
    jobs = [await service.api.job(config=wish("well", seconds=0.1, steps=5)) for _ in range(3)]

    done = [await service.ended(job["id"]) for job in jobs]

    spans = sorted((job["started_at"], job["completed_at"]) for job in done)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert psutil.pid_exists(service.processes["dispatch"][0].pid)
