"""A stand-in for the runtime that trains nothing; also the checks of data.

The seed selects its behaviour: `FAIL` fails at its second step, `SLOW` is slow.
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FAIL, SLOW = 13, 21


def check_rows() -> int:
    """Answer a push: this stand-in takes all rows."""
    json.load(sys.stdin)
    sys.stdout.write(json.dumps({"ok": True, "notes": []}))
    return 0


def check() -> int:
    """Answer one question on each line."""
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(checked(json.loads(line)))}\n")
        sys.stdout.flush()
    return 0


def checked(question: dict[str, Any]) -> dict[str, Any]:
    if "ping" in question:
        return {"ok": True}
    lines = Path(question["datasets"]["train"]).read_text().splitlines()
    usable = sum("response" in json.loads(line) for line in lines)
    if not usable:
        error = f"None of the {len(lines)} rows has an answer to train on"
        return {"renderer": "none", "ok": False, "loc": ["config", "dataset_ref"], "error": error}
    first = [number for number, line in enumerate(lines, 1) if "response" not in line]
    return {
        "renderer": "none",
        "ok": True,
        "rows": len(lines),
        "usable": usable,
        "dropped": {"no answer": len(first)} if first else {},
        "first_dropped": {"no answer": first} if first else {},
        "truncated": 0,
        "tokens": 10 * usable,
        "trained_tokens": 5 * usable,
    }


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

    def report(kind: str, **more: Any) -> dict[str, Any]:
        nonlocal seq
        seq += 1
        attempt = int(os.environ["DREADNODE_JOB_ATTEMPT"])
        event = {"event_type": kind, "attempt": attempt, "seq": seq, **more}
        return call("POST", "/progress", json.dumps(event).encode())

    report("training_start", message="Training starts")
    for step in range(1, steps + 1):
        if config["seed"] == SLOW:
            time.sleep(0.2)
        if config["seed"] == FAIL and step == 2:
            data = {"code": "diverged", "fault": "job"}
            report("training_error", level="error", error="The loss is not a number", data=data)
            return 1
        job = report(
            "step_complete",
            metrics={"steps": [step], "train/loss": [2.0 / step]},
            data={"step": step, "steps": steps, "tokens_total": 10 * step, "seconds_left": 0.5},
        )
        if job["cancel_requested_at"]:
            report("training_end", data={"cancelled": True})
            return 0
    call("PUT", "/files/adapter/adapter_config.json", b"{}")
    report("training_end", artifacts={"adapter": "adapter/", "checkpoints": ["tinker://a/final"]})
    return 0


if __name__ == "__main__":
    sys.exit({"check": check, "rows": check_rows}.get(sys.argv[1], train)())
