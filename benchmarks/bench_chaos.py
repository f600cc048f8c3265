"""Chaos for minutes: a whole server under load, with a fault every few seconds.

`tests/chaos.py` has the faults and the invariants. Here they run for longer, on SQLite and then on
PostgreSQL, at random moments.

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
from tests.chaos import Plan, again_and_again, chaos

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
    return (
        f"{kind}: {len(struck.accepted)} jobs, {len(struck.cancelled)} of them cancelled on the "
        f"way, ended truthfully in {attempts} attempts; struck: {strikes}"
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
