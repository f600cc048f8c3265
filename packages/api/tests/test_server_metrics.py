"""`/metrics` shows what alerts need, and the sample rules and board name no other metric."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.models.webhooks import Delivery, Webhook
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import null, update

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


async def read(api: Any) -> dict[tuple[str, str], float]:
    """Return each sample of `/metrics` by its name and status."""
    text = (await api.client.get("/metrics")).text
    return {
        (sample.name, sample.labels.get("status", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_an_empty_server_has_every_metric_at_zero(api: Any) -> None:
    found = await read(api)

    assert found["training_jobs", "queued"] == found["training_jobs", "failed"] == 0
    assert found["training_queue_oldest_seconds", ""] == 0
    assert found["training_checkpoint_oldest_seconds", ""] == 0
    assert found["training_disk_free_bytes", ""] < found["training_disk_size_bytes", ""]


async def test_queue_age_checkpoint_age_and_failed_deliveries_are_measured(api: Any) -> None:
    await api.push()
    queued, running = await api.job(), await api.job()
    async with api.database.writing() as session:
        hour_ago = now() - timedelta(hours=1)
        await session.execute(update(Job).where(Job.id == queued["id"]).values(created_at=hour_ago))
        await session.execute(update(Job).where(Job.id == running["id"]).values(status="running"))
        for number, minutes in enumerate((50, 20)):
            session.add(
                Checkpoint(
                    job_id=running["id"], path=f"tinker://x/{number}", number=number, kind="state",
                    attempt=1, state=State.READY, created_at=now() - timedelta(minutes=minutes),
                )
            )  # fmt: skip
        hook = Webhook(
            workspace_id=running["workspace_id"], url="https://example.com", secret="whsec_x"
        )
        session.add(hook)
        await session.flush()
        session.add(
            Delivery(
                webhook_id=hook.id, job_id=running["id"], number=1, body="{}",
                next_at=null(), given_up_at=now(),
            )
        )  # fmt: skip

    found = await read(api)

    assert found["training_queue_oldest_seconds", ""] == pytest.approx(3600, abs=300)
    assert found["training_checkpoint_oldest_seconds", ""] == pytest.approx(1200, abs=300)
    assert found["training_webhook_deliveries_failed", ""] == 1
    assert found["training_webhook_deliveries_pending", ""] == 0


async def test_the_sample_rules_and_the_dashboard_name_existing_metrics(api: Any) -> None:
    await api.client.get("/health/live")
    names = {name for name, _ in await read(api)} | {"training_engine_resident_bytes"}
    for file in ("prometheus-rules.yml", "grafana-dashboard.json"):
        text = (DEPLOY / file).read_text()

        named = set(re.findall(r"\b(?:training|http)_[a-z_]+\b", text))

        assert named
        assert {stem(name) for name in named} <= {stem(name) for name in names}


def stem(name: str) -> str:
    """Return the name of a metric without the suffix of one of its samples."""
    return re.sub(r"_(bucket|total|count|sum|created)$", "", name)
