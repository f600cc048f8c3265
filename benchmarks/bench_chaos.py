"""Chaos for minutes: a whole server under load, with a fault every few seconds.

`tests/chaos.py` has the faults and the invariants. Here they run for longer, on SQLite and then on
PostgreSQL, at random moments. For each fault, how long a read took another client meanwhile is
printed beside how long it took between the faults.

`CHAOS_MINUTES` (1 for each database by default), `CHAOS_SEED`, `CHAOS_DATABASES`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import write_tiny_model
from tests.chaos import QUIET, Chaos, Plan, again_and_again, chaos

MINUTES = float(os.environ.get("CHAOS_MINUTES", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "5"))
DATABASES = os.environ.get("CHAOS_DATABASES", "sqlite,postgresql").split(",")


async def run(kind: str, folder: Path, model: Path) -> str:
    """Inject faults into a server on a database of this kind for a given time; print the result."""
    async with chaos(kind, folder, model, Plan(SEED)) as struck:
        await struck.run(again_and_again(SEED, 60 * MINUTES))
        attempts = await struck.attempts()
        await struck.verify()
    strikes = ", ".join(f"{count} {name}" for name, count in sorted(struck.struck.items()))
    latencies = "\n".join(latency(struck, trouble) for trouble in (QUIET, *sorted(struck.struck)))
    return (
        f"{kind}: {len(struck.accepted)} jobs, {len(struck.cancelled)} of them cancelled on the "
        f"way, ended truthfully in {attempts} attempts; struck: {strikes}\n"
        f"reads of another client while this is struck:\n{latencies}"
    )


def latency(struck: Chaos, trouble: str) -> str:
    """Return the line of one trouble: the median, the slowest tenth, and the failed reads."""
    taken = sorted(struck.latencies.get(trouble, []))
    failed = f"{struck.unserved[trouble]} failed"
    if not taken:
        return f"  {trouble}: none served, {failed}"
    median, slow = (1000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.9))
    return (
        f"  {trouble}: median {median:.0f} ms, 90th percentile {slow:.0f} ms, "
        f"{len(taken)} served, {failed}"
    )


def main() -> int:
    """Run on each database and print what was survived."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    model = write_tiny_model(folder / "model", "qwen3")
    for kind in DATABASES:
        print(asyncio.run(run(kind, folder / kind, model)), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
