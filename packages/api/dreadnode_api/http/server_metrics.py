"""The state of the whole server as Prometheus metrics: jobs, queue, checkpoints, webhooks, disk."""

import asyncio
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job, Status, Tally
from dreadnode_api.models.webhooks import Delivery

Readings = list[Metric]


async def database_metrics(session: AsyncSession) -> Readings:
    """Return the metrics that the database holds; each query reads an index or a small table."""
    return [
        await _jobs(session),
        await _queue_age(session),
        await _checkpoint_age(session),
        *await _deliveries(session),
    ]


async def machine_metrics(data_dir: Path, engine_url: str) -> Readings:
    """Return disk space of the data directory and the memory of an engine on this machine."""
    return await asyncio.to_thread(lambda: [*_disk(data_dir), *_engine_memory(engine_url)])


class Collected:
    """Metrics that were read already, as a collector of prometheus_client's."""

    def __init__(self, metrics: Readings) -> None:
        self._metrics = metrics

    def collect(self) -> Readings:
        """Return the metrics."""
        return self._metrics


async def _jobs(session: AsyncSession) -> Metric:
    counted = await session.execute(
        select(Tally.status, func.sum(Tally.number)).group_by(Tally.status)
    )
    found = {row[0]: int(row[1]) for row in counted}
    family = GaugeMetricFamily("training_jobs", "Jobs by status", labels=["status"])
    for status in Status:
        family.add_metric([status.value], found.get(status.value, 0))
    return family


async def _queue_age(session: AsyncSession) -> Metric:
    oldest = await session.scalar(select(func.min(Job.created_at)).where(Job.status == "queued"))
    text = "Age of the oldest queued job; 0 when none is queued"
    return GaugeMetricFamily("training_queue_oldest_seconds", text, value=_age(oldest))


async def _checkpoint_age(session: AsyncSession) -> Metric:
    newest = (
        select(func.max(Checkpoint.created_at).label("at"))
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.status == "running", Checkpoint.state == State.READY)
        .group_by(Checkpoint.job_id)
        .subquery()
    )
    oldest = await session.scalar(select(func.min(newest.c.at)))
    return GaugeMetricFamily(
        "training_checkpoint_oldest_seconds",
        "Age of the newest checkpoint of the running job whose newest is oldest; 0 without one",
        value=_age(oldest),
    )


async def _deliveries(session: AsyncSession) -> Readings:
    failed = await session.scalar(
        select(func.count()).select_from(Delivery).where(Delivery.given_up_at.is_not(None))
    )
    pending = await session.scalar(
        select(func.count()).select_from(Delivery).where(Delivery.next_at.is_not(None))
    )
    return [
        GaugeMetricFamily(f"training_webhook_deliveries_{name}", text, value=number or 0)
        for name, text, number in (
            ("failed", "Webhook deliveries that failed for good and are still kept", failed),
            ("pending", "Webhook deliveries that wait for their next try", pending),
        )
    ]


def _disk(data_dir: Path) -> Iterator[Metric]:
    # The directory appears with the first file; its disk is that of the nearest folder above.
    usage = shutil.disk_usage(next(each for each in (data_dir, *data_dir.parents) if each.exists()))
    for name, number in (("free", usage.free), ("size", usage.total)):
        text = f"Disk of the data directory, {name}"
        yield GaugeMetricFamily(f"training_disk_{name}_bytes", text, value=number)


def _engine_memory(url: str) -> Iterator[Metric]:
    """Yield the resident memory of our engine, if it listens at URL on this machine."""
    address = urlsplit(url)
    if address.hostname not in {"127.0.0.1", "localhost", "::1"}:
        return
    for process in psutil.process_iter():
        try:
            if "dreadnode_engine" not in process.cmdline():
                continue
            listens = {each.laddr.port for each in process.net_connections("tcp")}
            if address.port in listens:
                yield GaugeMetricFamily(
                    "training_engine_resident_bytes",
                    "Resident memory of this machine's engine",
                    value=process.memory_info().rss,
                )
                return
        except psutil.Error:
            continue


def _age(moment: datetime | None) -> float:
    return max(0.0, (now() - moment).total_seconds()) if moment else 0.0
