"""The real runtime, which also prints each event that the API has answered; for `chaos.py`."""

import json
import os
import sys
from typing import Any

from dreadnode_runtime.commands import check_rows

if __name__ == "__main__" and sys.argv[1:] == ["rows"]:
    # As the runtime itself does: the other imports take seconds, and a push waits for this.
    sys.stdout.write(check_rows.answer(sys.stdin.read()) + "\n")
    sys.exit()

from dreadnode_runtime import __main__ as runtime
from dreadnode_runtime.control.api import JobApi

_progress = JobApi.progress


async def progress(self: JobApi, event: dict[str, Any]) -> dict[str, Any]:
    """Tell EVENT, and print that it arrived."""
    job = await _progress(self, event)
    told = {"type": event["event_type"], "step": event["data"].get("step")}
    print(f"acknowledged {json.dumps(told)}", flush=True)  # noqa: T201
    return job


if __name__ == "__main__":
    JobApi.progress = progress  # type: ignore[method-assign]
    code = runtime.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
