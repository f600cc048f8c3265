"""Run every benchmark of this folder, one after the other; each prints ratios of one run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run them all; return 1 if one fails."""
    # As in the engine: threads that spin while they wait make every figure depend on other load.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    failed = []
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n== {script.stem.removeprefix('bench_')}", flush=True)
        if subprocess.run([sys.executable, script], check=False).returncode:
            failed.append(script.name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
