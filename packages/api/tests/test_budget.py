"""What jobs cost, and what they may cost: counted once, priced exactly, refused in time."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.rates import Rates
from dreadnode_api.settings import Settings

TRAIN, SAMPLE, PREFILL = Decimal("0.44"), Decimal("0.6"), Decimal("0.195")
ZERO = {"prefill": 0, "cached_prefill": 0, "sample": 0, "train": 0}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings of a server that trains on hosted Tinker, which charges for tokens."""
    return settings.model_copy(update={"engine_key": "", "tinker_api_key": "tml-hosted"})


def plan(least: int, most: int | None = None) -> str:
    """Return a prompt that has the check report a job of so many trained tokens."""
    bounds = {"at_least": {"train": least}, "at_most": {"train": most or least}}
    return json.dumps({"plan": bounds})


@pytest.fixture
async def told(api: Any) -> Any:
    """A running job, and a function that reports the tokens of one of its attempts."""
    await api.push()
    await api.job()
    job, key = await api.start()

    async def tell(seq: int, kind: str = "log", **tokens: Any) -> dict[str, Any]:
        event = {"event_type": kind, "seq": seq, "usage": tokens}
        answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["cost"]
        return found

    tell.job = job["id"]  # type: ignore[attr-defined]
    return tell


async def test_totals_that_come_twice_late_or_smaller_are_counted_once(told: Any) -> None:
    await told(1, train=100, sample=7)
    await told(1, train=100, sample=7)
    await told(2, train=90, sample=9)

    cost = await told(2, train=250, sample=9)

    assert cost["tokens"] == {**ZERO, "train": 250, "sample": 9}
    assert cost["paid"]
    assert Decimal(cost["usd"]) == (250 * TRAIN + 9 * SAMPLE) / 1_000_000


async def test_a_job_costs_the_sum_of_its_attempts(api: Any, told: Any) -> None:
    await told(1, train=100)
    async with api.database.writing() as session:
        job = await session.get(Job, told.job)
        job.usage = {**job.usage, "2": {**ZERO, "train": 50}}

    assert (await told(2, train=110))["tokens"]["train"] == 160


async def test_counts_past_2_to_the_53_come_as_strings_and_stay_exact(api: Any, told: Any) -> None:
    await told(1, train=str(2**53 + 1), prefill=str(2**60 + 1))

    cost = (await api("GET", f"{api.jobs}/{told.job}")).json()["cost"]

    assert cost["tokens"] == {**ZERO, "train": 2**53 + 1, "prefill": 2**60 + 1}
    expected = (2**53 + 1) * TRAIN + (2**60 + 1) * PREFILL
    assert Decimal(cost["usd"]) == expected / 1_000_000


async def test_a_cost_beyond_every_limit_stays_exact_and_fills_the_month(
    api: Any, told: Any
) -> None:
    most = 2**63 - 1

    cost = await told(1, train=str(most), sample=str(most))
    budget = (await api("GET", "/org/acme/ws/lab/budget")).json()
    report = (await api("GET", "/org/acme/training/costs")).json()

    assert Decimal(cost["usd"]) == most * (TRAIN + SAMPLE) / 1_000_000
    assert report["total"]["usd"] == cost["usd"]
    assert Decimal(budget["used_usd"]) == 10**9


@pytest.mark.parametrize("count", [-1, str(2**63), 1.5, "1e3", True])
async def test_a_count_that_is_none_is_refused(api: Any, count: Any) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    event = {"event_type": "log", "usage": {"train": count}}

    answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)

    assert answer.status_code == 422
    assert (await api("GET", f"{api.jobs}/{job['id']}")).json()["cost"]["tokens"] == ZERO


async def test_a_job_keeps_the_rates_of_its_submission(api: Any, told: Any) -> None:
    async with api.database.writing() as session:
        job = await session.get(Job, told.job)
        job.rates = {**job.rates, "train": "1000"}

    cost = await told(1, train=1_000_000)

    assert cost["usd"] == "1000"
    assert cost["rates"]["train"] == "1000"


async def test_a_rehearsal_costs_nothing_and_shows_what_the_real_job_would(api: Any) -> None:
    await api.push()
    await api.job(rehearse=True)
    job, key = await api.start()
    event = {"event_type": "log", "usage": {"train": 1_000_000}}
    answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)

    cost = answer.json()["cost"]

    assert (cost["paid"], cost["usd"], cost["list_usd"]) == (False, "0", "0.44")


@pytest.mark.parametrize("limit", [0, -1, 1e10, "5", True, float("nan"), float("inf")])
async def test_a_limit_that_is_not_an_amount_is_refused(api: Any, limit: Any) -> None:
    await api.push()
    body = json.dumps(
        {
            "model": "Qwen/Qwen3-8B",
            "trainer_type": "sft",
            "config": {
                "dataset_ref": {"name": "rows", "version": "1.0.0"},
                "max_cost_usd": limit,
            },
        }
    )

    answer = await api("POST", api.jobs, content=body)

    assert answer.status_code == 422, answer.text
    assert await api.count() == 0


async def test_a_job_that_costs_more_than_its_limit_is_refused(api: Any) -> None:
    await api.push()
    wish = {"max_cost_usd": 3.0, "system_prompt": plan(10_000_000)}

    refused = await api.create(config=wish)
    made = await api.create(config=wish | {"max_cost_usd": 4.4})

    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "This job costs at least $4.40, which is more than its `max_cost_usd` of $3.00; raise the "
        "limit, or make the job smaller"
    )
    assert refused.json()["errors"][0]["loc"] == ["body", "config", "max_cost_usd"]
    assert made.status_code == 201, made.text
    assert made.json()["cost"]["limit_usd"] == "4.4"


async def test_a_job_that_can_cost_more_than_a_limit_can_be_needs_a_limit(api: Any) -> None:
    await api.push()
    wish = {"system_prompt": plan(1, 10**24)}

    refused = await api.create(config=wish)
    made = await api.create(config=wish | {"max_cost_usd": 1e9})

    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "This job can cost $440,000,000,000,000,000, which is more than a limit can be; set "
        "`max_cost_usd` to at most $1,000,000,000, or make the job smaller"
    )
    assert made.status_code == 201
    assert made.json()["preflight"]["plan"]["at_most"] == {"train": 10**24}


async def set_monthly_limit(api: Any, usd: str) -> None:
    async with api.database.writing() as session:
        (await session.get(Workspace, api.workspace_id)).monthly_limit_usd = usd


async def test_of_two_jobs_that_together_exceed_the_monthly_limit_one_is_refused(api: Any) -> None:
    await api.push()
    await set_monthly_limit(api, "6.6")
    wishes = [{"system_prompt": plan(n)} for n in (10_000_000, 10_000_001)]

    answers = await asyncio.gather(*(api.create(config=wish) for wish in wishes))

    assert sorted(each.status_code for each in answers) == [201, 409]
    refused = next(each for each in answers if each.status_code == 409)
    assert "This job can cost $4.40, and the workspace has $2.20 left of its $6.6" in refused.text
    # Its price is exact, so a limit of its own would not help.
    assert "; make the job smaller, or ask an administrator" in refused.text
    assert await api.count() == 1


async def test_what_an_ended_job_did_not_use_of_its_reservation_is_free_again(api: Any) -> None:
    await api.push()
    await set_monthly_limit(api, "6.6")
    await api.job(config={"system_prompt": plan(10_000_000)})
    job, key = await api.start()
    end = {"event_type": "training_end", "usage": {"train": 2_000_000}}
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=end)

    fits = await api.create(config={"system_prompt": plan(13_000_000)})
    too_much = await api.create(config={"system_prompt": plan(13_000_001)})

    assert fits.status_code == 201
    assert too_much.status_code == 409


async def test_a_job_whose_cost_nobody_knows_needs_a_limit_of_its_own(api: Any) -> None:
    await api.push()
    await set_monthly_limit(api, "6")

    refused = await api.create()
    made = await api.create(config={"max_cost_usd": 5.0})

    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        "This workspace has a monthly limit of $6, and what this job can cost is unknown: there is "
        "no estimate of its tokens. Set `max_cost_usd`"
    )
    assert made.status_code == 201


async def test_a_job_on_a_model_without_a_published_rate_does_not_fit_into_a_limit(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.push()
    await set_monthly_limit(api, "6")
    unknown = Rates("Qwen/Qwen3-8B", prefill=PREFILL)
    monkeypatch.setattr("dreadnode_api.training.planning.rates_of", lambda _: unknown)
    wish = {"system_prompt": plan(10)}

    refused = await api.create(config=wish)
    limited = await api.create(config=wish | {"max_cost_usd": 5.0})

    reason = "The catalog has no published rate of Qwen/Qwen3-8B for `train` tokens"
    assert refused.json()["detail"] == (
        "This workspace has a monthly limit of $6, and what this job can cost is unknown: "
        f"{reason}. Choose another model"
    )
    assert limited.json()["detail"] == (
        "`max_cost_usd` cannot be kept, because the price of Qwen/Qwen3-8B is not known: "
        f"{reason}. Leave it out, or choose another model"
    )


async def test_a_running_job_gets_the_budget_that_the_others_leave(api: Any, told: Any) -> None:
    await set_monthly_limit(api, "6")

    alone = await told(1, train=1)
    await api.job(config={"max_cost_usd": 2.0})
    beside = await told(2, train=1)

    assert (alone["limit_usd"], beside["limit_usd"]) == ("6", "4")


async def stopped(api: Any, **config: Any) -> str:
    """Return a job that its budget has stopped, after tokens for one dollar."""
    await api.push()
    await api.job(config=config)
    job, key = await api.start()
    end = {
        "event_type": "training_end",
        "usage": {"train": 2_272_727},
        "data": {"stopped_by": "budget", "step": 3},
        "artifacts": {"latest_checkpoint": "tinker://run/weights/step-000003"},
    }
    answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=end)
    assert (answer.json()["status"], answer.json()["stopped_by"]) == ("completed", "budget")
    return str(job["id"])


async def test_a_job_that_its_budget_stopped_resumes_with_a_larger_limit_only(api: Any) -> None:
    path = f"{api.jobs}/{await stopped(api, max_cost_usd=0.9)}/retry"

    same = await api("POST", path)
    larger = await api("POST", path, json={"max_cost_usd": 1.5})

    assert same.status_code == 422
    assert same.json()["detail"] == (
        "`max_cost_usd` is $0.90, and the jobs that this one retries have cost $1.00 already; set "
        "a larger limit"
    )
    assert larger.status_code == 201, larger.text
    job = larger.json()
    assert job["config"]["max_cost_usd"] == 1.5
    assert (job["cost"]["earlier_usd"], job["cost"]["limit_usd"]) == ("0.99999988", "1.5")
    assert job["start_step"] == 3
    assert job["stopped_by"] is None


async def test_a_retry_has_the_prices_of_today_and_the_engine_of_today(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.push()
    await api.job(config={"system_prompt": '{"planned": true}'})
    job, key = await api.start()
    path = f"{api.jobs}/{job['id']}"
    end = {"event_type": "training_error", "error": "no", "usage": {"train": 1_000_000}}
    await api("POST", f"{path}/progress", key=key, json=end)
    dearer = Rates("Qwen/Qwen3-8B", train=Decimal(50), as_of="2027-01")
    monkeypatch.setattr("dreadnode_api.training.retry.rates_of", lambda _: dearer)

    charged = (await api("POST", f"{path}/retry")).json()
    own_engine = {"engine_key": "tml-own", "tinker_api_key": ""}
    api.app.state.settings = api.settings.model_copy(update=own_engine)
    free = (await api("POST", f"{path}/retry")).json()
    old = (await api("GET", path)).json()

    assert not free["cost"]["paid"]
    assert charged["cost"]["paid"]
    assert (charged["cost"]["rates"]["train"], charged["cost"]["earlier_usd"]) == ("50", "0.44")
    tokens = charged["preflight"]["price"]["at_most"]["tokens"]["train"]
    assert Decimal(charged["preflight"]["price"]["at_most"]["usd"]) == tokens * 50 / Decimal(10**6)
    assert old["preflight"]["price"]["rates"]["train"] == "0.44"


async def test_a_job_that_did_all_its_steps_is_not_retried(api: Any) -> None:
    await api.push()
    await api.job()
    job, key = await api.start()
    await api(
        "POST", f"{api.jobs}/{job['id']}/progress", key=key, json={"event_type": "training_end"}
    )

    assert (await api("POST", f"{api.jobs}/{job['id']}/retry")).status_code == 409


async def test_an_admin_sets_the_monthly_limit_and_others_only_read_it(api: Any) -> None:
    path = "/org/acme/ws/lab/budget"
    body = {"monthly_limit_usd": 12.5}

    refused = [
        (await api("PUT", path, key=key, json=body)).status_code for key in ("reader", "member")
    ]
    elsewhere = await api("PUT", path, key="stranger", json=body)
    done = await api("PUT", path, json=body)
    read = await api("GET", path, key="reader")
    removed = await api("PUT", path, json={"monthly_limit_usd": None})

    assert refused == [403, 403]
    assert elsewhere.status_code == 404
    assert done.status_code == 200, done.text
    assert read.json() == done.json()
    assert (read.json()["monthly_limit_usd"], read.json()["left_usd"]) == ("12.5", "12.5")
    assert removed.json()["monthly_limit_usd"] is None


@pytest.mark.parametrize("limit", ["0", "-1", "NaN", "Infinity", '"5"', "true"])
async def test_a_monthly_limit_that_is_not_an_amount_is_refused(api: Any, limit: str) -> None:
    answer = await api(
        "PUT", "/org/acme/ws/lab/budget", content=f'{{"monthly_limit_usd": {limit}}}'
    )

    assert answer.status_code in (400, 422), answer.text
    assert (await api("GET", "/org/acme/ws/lab/budget")).json()["monthly_limit_usd"] is None


async def test_costs_are_summed_by_job_model_workspace_and_month_also_of_deleted_jobs(
    api: Any, told: Any
) -> None:
    await told(1, train=1_000_000)
    await told(2, "training_end")
    await api.job(rehearse=True, name="free")
    job, key = await api.start()
    event = {"event_type": "training_end", "usage": {"sample": 500_000}}
    await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=event)
    async with api.database.writing() as session:
        (await session.get(Job, told.job)).lease = None
    assert (await api("DELETE", f"{api.jobs}/{told.job}")).status_code < 300

    reports = {
        by: (await api("GET", f"/org/acme/training/costs?group_by={by}", key="reader")).json()
        for by in ("job", "model", "workspace", "month")
    }
    budget = (await api("GET", "/org/acme/ws/lab/budget")).json()

    assert {row["key"]: row["usd"] for row in reports["job"]["items"]} == {
        told.job: "0.44",
        job["id"]: "0",
    }
    for by, name in (("model", "Qwen/Qwen3-8B"), ("workspace", "lab"), ("month", budget["month"])):
        (row,) = reports[by]["items"]
        assert (row["key"], row["jobs"], row["usd"], row["list_usd"]) == (name, 2, "0.44", "0.74")
        assert reports[by]["total"]["tokens"] == {**ZERO, "train": 1_000_000, "sample": 500_000}
    assert budget["used_usd"] == "0.44"


async def test_a_sum_over_a_rate_that_is_not_known_is_not_known(api: Any, told: Any) -> None:
    await told(1, train=5)
    async with api.database.writing() as session:
        job = await session.get(Job, told.job)
        job.rates = {**job.rates, "train": None}

    report = (await api("GET", "/org/acme/training/costs")).json()

    assert report["total"]["usd"] is None
    assert "no published rate" in report["total"]["reason"]
    assert (await api("GET", "/org/acme/training/costs?month=2001-01")).json()["items"] == []
