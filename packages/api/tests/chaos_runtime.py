"""The fake runtime, which also prints what it got an answer to; a program for `test_chaos.py`."""

import http.client
import json
import sys
import time
from typing import Any

import fake_runtime


class Job(fake_runtime.Job):
    def call(self, method: str, path: str = "", body: bytes | None = None) -> dict[str, Any]:
        while True:
            try:
                answer = super().call(method, path, body)
            except http.client.HTTPException:
                time.sleep(0.1)
                continue
            if path == "/progress" and body is not None:
                event = json.loads(body)
                told = {"type": event["event_type"], "step": event.get("data", {}).get("step")}
                sys.stdout.write(f"acknowledged {json.dumps(told)}\n")
                sys.stdout.flush()
            return answer


if __name__ == "__main__":
    fake_runtime.Job = Job  # type: ignore[misc]
    commands = {"check": fake_runtime.check, "rows": fake_runtime.check_rows}
    command = commands.get(sys.argv[1])
    sys.exit(command() if command else fake_runtime.run(sys.argv[2]))
