"""A sandbox that speaks the contract and trains nothing; also the check of the data.

The seed says how it behaves: `FAIL` fails at its second step, `SLOW` takes its time.
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FAIL, SLOW = 13, 21


def check() -> None:
    asked = json.load(sys.stdin)
    lines = Path(asked["datasets"]["train"]).read_text().splitlines()
    usable = sum("response" in json.loads(line) for line in lines)
    if usable:
        dropped = {"no answer": len(lines) - usable} if usable < len(lines) else {}
        first = {"no answer": [n for n, line in enumerate(lines, 1) if "response" not in line]}
        counts = {"rows": len(lines), "usable": usable, "dropped": dropped, "truncated": 0}
        counts["first_dropped"] = first if dropped else {}
        answer = {"ok": True, **counts, "tokens": 10 * usable, "trained_tokens": 5 * usable}
    else:
        error = f"None of the {len(lines)} rows has an answer to train on"
        answer = {"ok": False, "loc": ["config", "dataset_ref"], "error": error}
    sys.stdout.write(json.dumps({"renderer": "none", **answer}))


def call(method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    headers = {"X-API-Key": os.environ["DREADNODE_API_KEY"], "Content-Type": "application/json"}
    url = (
        f"{os.environ['DREADNODE_SERVER']}/api/v1/org/{os.environ['DREADNODE_ORGANIZATION']}"
        f"/ws/{os.environ['DREADNODE_WORKSPACE']}/training/jobs/{sys.argv[2]}{path}"
    )
    while True:
        try:
            request = urllib.request.Request(url, body, headers, method=method)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return dict(json.load(answer))
        except (ConnectionError, urllib.error.URLError):
            time.sleep(0.1)


def train() -> int:
    config = call("GET", "")["config"]
    steps, seq = config["steps"], 0

    def tell(kind: str, **more: Any) -> dict[str, Any]:
        nonlocal seq
        seq += 1
        attempt = int(os.environ["DREADNODE_JOB_ATTEMPT"])
        event = {"event_type": kind, "attempt": attempt, "seq": seq, **more}
        return call("POST", "/progress", json.dumps(event).encode())

    tell("training_start", message="Training starts")
    for step in range(1, steps + 1):
        if config["seed"] == SLOW:
            time.sleep(0.2)
        if config["seed"] == FAIL and step == 2:
            data = {"code": "diverged", "fault": "job"}
            tell("training_error", level="error", error="The loss is not a number", data=data)
            return 1
        job = tell(
            "step_complete",
            metrics={"steps": [step], "train/loss": [2.0 / step]},
            data={"step": step, "steps": steps, "tokens_total": 10 * step, "seconds_left": 0.5},
        )
        if job["cancel_requested_at"]:
            tell("training_end", data={"cancelled": True})
            return 0
    call("PUT", "/files/adapter/adapter_config.json", b"{}")
    tell("training_end", artifacts={"adapter": "adapter/", "checkpoints": ["tinker://a/final"]})
    return 0


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1] == "check" else train())
