"""The small curve of each job in the list: its loss, or the reward of reinforcement learning."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.console.thinning import MetricHistory, Value
from dreadnode_api.models.jobs import ENDED, Job, MetricPoints

BUCKETS = 24
CURVES_KEPT = 2000
WIDTH, HEIGHT = 120, 28
METRICS = {"sft": "train/loss", "rl": "train/reward", "eval": ""}


@dataclass(slots=True)
class Curve:
    """The thinned metric of one job, and up to which event it was read."""

    metric: str
    read_of: tuple[int, bool]
    number: int = 0
    history: MetricHistory = field(default_factory=lambda: MetricHistory(BUCKETS))
    path: str = ""
    label: str = ""


class Curves:
    """The curves of the jobs that lists have shown; each event is read once."""

    def __init__(self) -> None:
        self._curves: OrderedDict[str, Curve] = OrderedDict()

    def known(self, jobs: Sequence[Job]) -> dict[str, Curve]:
        """Return the curves that need no reading, by the id of the job."""
        return {job.id: self._curves[job.id] for job in jobs if job.id in self._curves}

    async def read(self, session: AsyncSession, jobs: Sequence[Job]) -> dict[str, Curve]:
        """Return the curves of JOBS by id, and read what is new of them."""
        training = [job for job in jobs if job.trainer_type in METRICS]
        behind = {
            job.id: curve for job in training if (curve := self._curve(job)).number < job.events
        }
        read_to = {each: curve.number for each, curve in behind.items()}
        events = {job.id: job.events for job in training}
        for metric in METRICS.values():
            wanted = {each: curve for each, curve in behind.items() if curve.metric == metric}
            if not wanted:
                continue
            # The database extracts the one metric: whole histories are large.
            found = await session.execute(
                select(MetricPoints.job_id, MetricPoints.lists[metric])
                .where(
                    or_(
                        *(
                            and_(
                                MetricPoints.job_id == each,
                                MetricPoints.number > read_to[each],
                                MetricPoints.number <= events[each],
                            )
                            for each in wanted
                        )
                    )
                )
                .order_by(MetricPoints.job_id, MetricPoints.number)
            )
            # Another list may have read the same events in the meantime: its points are added.
            left = {each for each, curve in wanted.items() if curve.number == read_to[each]}
            for job_id, values in found:
                if job_id in left:
                    wanted[job_id].history.add({metric: values})
            for each in left:
                _draw(wanted[each])
                wanted[each].number = events[each]
        return self.known(jobs)

    def _curve(self, job: Job) -> Curve:
        """Return the curve of a job, empty if an attempt or the end has replaced its metrics."""
        read_of = (job.attempt, job.status in ENDED)
        found = self._curves.get(job.id)
        if found is None or found.read_of != read_of:
            found = self._curves[job.id] = Curve(METRICS[job.trainer_type], read_of)
        self._curves.move_to_end(job.id)
        if len(self._curves) > CURVES_KEPT:
            self._curves.popitem(last=False)
        return found


def _draw(curve: Curve) -> None:
    """Write the path and the words of a curve."""
    series = curve.history.series.get(curve.metric)
    if series is None:
        return
    steps, values = series.points()
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return
    curve.path = _path(steps, values, min(known), max(known))
    curve.label = (
        f"{curve.metric.rpartition('/')[2]}: {known[0]:.3g} at first, {known[-1]:.3g} now, "
        f"between {min(known):.3g} and {max(known):.3g}"
    )


def _path(steps: list[float], values: list[Value], low: float, high: float) -> str:
    across, up = (steps[-1] - steps[0]) or 1, (high - low) or 1
    parts, command = [], "M"
    for step, value in zip(steps, values, strict=True):
        if value is None:
            command = "M"
            continue
        x = (step - steps[0]) / across * WIDTH
        y = HEIGHT - 2 - (value - low) / up * (HEIGHT - 4)
        parts.append(f"{command}{x:.1f} {y:.1f}")
        command = "L"
    return "".join(parts)
