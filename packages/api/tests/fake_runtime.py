"""Speaks the contract of a sandbox and of the check, and behaves as the job's prompt says.

The config's `system_prompt` holds a JSON object: `{"behave": "...", ...}`. No prompt: behave well.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check_rows() -> int:
    text = Path(json.load(sys.stdin)["path"]).read_text()
    if "Frage" in text:
        say(json.dumps({"ok": False, "error": "None of the rows has a known field"}))
    else:
        if "hang" in text:
            time.sleep(600)
        notes = ["not read: context, in 1 of 1 rows"] if "context" in text else []
        say(json.dumps({"ok": True, "notes": notes}))
    return 0


def check() -> int:
    for line in sys.stdin:
        say(json.dumps(check_one(json.loads(line))))
    return 0


def check_one(question: dict[str, Any]) -> dict[str, Any]:
    if question.get("ping"):
        return {"ok": True}
    datasets = question["datasets"]
    path = Path(datasets["train"] or datasets.get("trajectories", [datasets["eval"]])[0])
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    prompt = question["config"].get("system_prompt")
    wish = json.loads(prompt) if prompt and prompt.startswith("{") else {}
    if wish.get("check") == "crash":
        sys.exit("the check broke")
    if wish.get("check") == "hang":
        subprocess.Popen(SLEEP)
        time.sleep(600)
    if wish.get("check") == "flood":
        while True:
            say("x" * 100_000)
    if wish.get("check") == "environment":
        return {"ok": False, "loc": ["config"], "error": " ".join(sorted(os.environ))}
    if wish.get("check") == "process":
        return {"ok": False, "loc": ["config"], "error": f"process {os.getpid()}"}
    if wish.get("check") == "write":
        Path("written").write_text("data of this organization")
    if wish.get("check") == "files":
        found = sorted(each.name for each in Path.cwd().iterdir())
        return {"ok": False, "loc": ["config"], "error": f"files: {found}"}
    if wish.get("check") == "garbage":
        say("not JSON")
    if log := wish.get("log"):
        with Path(log).open("a") as checks:
            checks.write(f"{os.getpid()}\n")
    if file := wish.get("file"):
        while not Path(file).exists():
            time.sleep(0.02)
    if plan := wish.get("plan"):
        report = {"ok": True, "rows": 1, "usable": 1, "tokens": 10}
        return {**report, "characters_per_token": 3.7, "plan": plan}
    if wish.get("check") == "refuse":
        return {"ok": False, "loc": ["config", "dataset_ref"], "error": "No row can be used"}
    if wish.get("check") == "allocate":
        program = f"held = bytearray(b'x' * {wish['bytes']}); import time; time.sleep(600)"
        for _ in range(wish["times"]):
            subprocess.Popen([sys.executable, "-c", program])
        time.sleep(600)
    if wish.get("check") == "hang-after-log":
        time.sleep(600)
    usable = sum("response" in row or "messages" in row for row in rows)
    if usable == 0:
        return {
            "ok": False,
            "loc": ["config", "dataset_ref"],
            "error": f"None of the {len(rows)} rows can be trained on",
        }
    return {
        "ok": True,
        "rows": len(rows),
        "usable": usable,
        "dropped": {"no answer": len(rows) - usable} if usable < len(rows) else {},
        "tokens": 10 * usable,
        "trained_tokens": 5 * usable,
        "truncated": 0,
        "renderer": "fake",
        "usual_learning_rate": 5e-4,
        "characters_per_token": 3.7,
        **({"plan": planned(question["config"], usable)} if wish.get("planned") else {}),
        "shown": shown(question.get("show"), usable),
    }


def planned(config: dict[str, Any], rows: int) -> dict[str, Any]:
    steps = config.get("steps") or config["epochs"] * -(-rows // config.get("batch_size", 16))
    tokens = {"train": 9 * rows * (config.get("epochs") or 1)}
    return {
        "steps": steps,
        "rows_per_epoch": rows,
        "rows_per_step": config.get("batch_size", 16),
        "at_least": tokens,
        "at_most": tokens,
    }


def shown(row: int | None, rows: int) -> dict[str, Any] | None:
    if row is not None and row > rows:
        return None
    part = {"text": "hi", "trained": False}
    return {"row": row or 1, "sequences": [{"parts": [part], "tokens": 1, "tokens_not_shown": 0}]}


def serve() -> int:
    """Answer the last message with itself, word by word if it streams, or do what it says."""
    opening = json.loads(sys.stdin.readline())
    prompt = opening.get("system_prompt")
    behavior = (json.loads(prompt) if prompt else {}).get("chat")
    if behavior == "refuse":
        say(json.dumps({"ok": False, "fault": "engine", "error": "The engine was away"}))
        return 0
    say(json.dumps({"ok": True, "renderer": "fake", "notes": []}))
    for number, line in enumerate(sys.stdin, 1):
        request = json.loads(line)
        if "cancel" in request:
            Path(os.environ.get("TMPDIR", "."), "cancelled").write_text(request["cancel"])
            continue
        say_of = {"id": request["id"]}
        text = str((request.get("messages") or [{"content": request.get("prompt")}])[-1]["content"])
        if behavior == "hang" or text == "hang":
            subprocess.Popen(SLEEP)
            time.sleep(600)
        if "crash" in (behavior, text):
            time.sleep(0.3)
            sys.exit("the chat broke")
        if behavior == "slow":
            time.sleep(0.5)
        if text == "environment":
            text = " ".join(sorted(os.environ))
        if text == "process":
            text = f"{os.getpid()} {number}"
        if text == "opening":
            text = json.dumps(opening)
        if text == "long":
            say(json.dumps({**say_of, "fault": "request", "error": "There is no room"}))
            continue
        usage = {"prompt_tokens": len(line), "cached_tokens": 3}
        if request.get("only_count"):
            say(json.dumps({**say_of, "result": {"usage": usage}}))
            continue
        tools = request.get("tools")
        calls = (
            [{"id": None, "name": tools[0]["function"]["name"], "arguments": "{}"}] if tools else []
        )
        message = {"role": "assistant", "content": text, "reasoning": None, "tool_calls": calls}
        choice = {"message": message, "text": text, "finish_reason": "stop"}
        if request.get("stream"):
            for word in text.split(" "):
                part = {"index": 0, "content": word + " "}
                say(json.dumps({**say_of, "part": part}))
        usage["completion_tokens"] = request.get("max_tokens", 5)
        result = {"choices": [choice] * request.get("n", 1), "usage": usage}
        result |= {"renderer": "fake", "format_notes": ["fake replaces real"]}
        say(json.dumps({**say_of, "result": result}))
    return 0


def upload() -> int:
    wish = json.load(sys.stdin)
    config = json.loads(Path("adapter_config.json").read_text())
    if "refuse" in config:
        say(json.dumps({"ok": False, "fault": "request", "error": config["refuse"]}))
        return 0
    shape = {"rank": config["r"], "train_mlp": True, "train_attn": True, "train_unembed": False}
    own = "own" if wish["own_engine"] else "hosted"
    path = f"tinker://upload-{own}-{os.getpid()}/external_weights/adapter"
    say(json.dumps({"ok": True, "path": path, **shape, "new_layers": ["k_proj"]}))
    return 0


def export() -> int:
    wish = json.load(sys.stdin)
    name = wish["name"]
    Path("leftover").write_text("not part of it")
    if "hang" in name:
        subprocess.Popen(SLEEP)
        time.sleep(600)
    if "crash" in name:
        sys.exit("the export broke")
    if "away" in name:
        say(json.dumps({"ok": False, "fault": "engine", "error": "The engine was away"}))
        return 0
    if "nan" in name:
        say(json.dumps({"ok": False, "fault": "request", "error": "These are not numbers"}))
        return 0
    if "slow" in name:
        time.sleep(0.5)
    Path("adapter_config.json").write_text(json.dumps(sorted(os.environ)))
    if "half" not in name:
        Path("adapter_model.safetensors").write_text(wish["checkpoint"])
    say(json.dumps({"ok": True, "files": ["adapter_config.json", "adapter_model.safetensors"]}))
    return 0


class Job:
    def __init__(self, job_id: str) -> None:
        self.base = (
            f"{os.environ['DREADNODE_SERVER']}/api/v1/org/{os.environ['DREADNODE_ORGANIZATION']}"
            f"/ws/{os.environ['DREADNODE_WORKSPACE']}/training/jobs/{job_id}"
        )
        self.seq = 0
        self.cancelled = False
        self.terminated = False
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, *_: object) -> None:
        self.terminated = True

    def call(self, method: str, path: str = "", body: bytes | None = None) -> dict[str, Any]:
        # Only here, because most processes are checks, and each would pay for this import.
        import urllib.error
        import urllib.request

        headers = {"X-API-Key": os.environ["DREADNODE_API_KEY"], "Content-Type": "application/json"}
        for _ in range(200):
            request = urllib.request.Request(self.base + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return dict(json.load(answer))
            except urllib.error.HTTPError as error:
                if error.code >= 500:
                    time.sleep(0.1)
                    continue
                say(f"{method} {path}: {error.code} {error.read()!r}")
                sys.exit(75)
            except OSError:
                time.sleep(0.1)
        sys.exit(75)

    def tell(self, event_type: str, **more: Any) -> None:
        self.seq += 1
        attempt = int(os.environ["DREADNODE_JOB_ATTEMPT"])
        event = {"event_type": event_type, "attempt": attempt, "seq": self.seq, **more}
        job = self.call("POST", "/progress", json.dumps(event).encode())
        self.cancelled = job["cancel_requested_at"] is not None


def train(job: Job, config: dict[str, Any], wish: dict[str, Any]) -> int:
    steps = config.get("steps") or 5
    job.tell("training_start", message="Training starts", data={"start": 0, "steps": steps})
    for step in range(1, steps + 1):
        time.sleep(wish.get("seconds", 0))
        job.tell(
            "step_complete",
            metrics={"steps": [step], "train/loss": [1 / step]},
            data={"step": step, "steps": steps, "tokens_total": 10 * step, "seconds_left": 0.5},
        )
        if job.terminated:
            return 75
        if job.cancelled and wish.get("behave") != "ignore_cancel":
            job.tell("training_end", data={"cancelled": True}, artifacts={"checkpoints": ["x"]})
            return 0
    job.call("PUT", "/files/adapter/README.md", b"# adapter")
    job.tell("training_end", metrics={"train/steps": steps}, artifacts={"adapter": "adapter/"})
    return 0


def run(job_id: str) -> int:
    job = Job(job_id)
    record = job.call("GET")
    prompt = record["config"].get("system_prompt")
    wish = json.loads(prompt) if prompt else {}
    attempt = int(os.environ["DREADNODE_JOB_ATTEMPT"])
    say(f"attempt {attempt}, key {os.environ['DREADNODE_API_KEY']}")
    behave = wish.get("behave") if attempt <= wish.get("attempts", 1000) else None
    if behave == "ignore_everything":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(SLEEP, start_new_session=True)
        job.tell("training_start", message="Training starts")
        time.sleep(600)
    if behave == "exit":
        return int(wish["code"])
    if behave == "kill":
        used = {"prefill": 1, "cached_prefill": 2, "sample": 3, "train": 4 * attempt}
        Path("usage.json").write_text(json.dumps(used))
        os.kill(os.getpid(), signal.SIGKILL)
    if behave == "fail":
        job.tell(
            "training_error",
            level="error",
            error="The loss is not a number [row 3]",
            data={"code": "diverged", "fault": "job"},
        )
        return 1
    if behave == "print":
        for _ in range(wish["times"]):
            sys.stdout.write("x" * 1000 + "\n")
    if behave == "allocate":
        program = f"held = bytearray(b'x' * {wish['bytes']}); import time; time.sleep(600)"
        for _ in range(wish["times"]):
            subprocess.Popen([sys.executable, "-c", program])
        time.sleep(600)
    if behave == "fork":
        for _ in range(wish["times"]):
            subprocess.Popen(SLEEP)
        time.sleep(600)
    if behave == "write":
        Path("big").write_bytes(b"x" * wish["bytes"])
        time.sleep(600)
    if behave == "environment":
        job.tell("log", message=" ".join(sorted(os.environ)))
    return train(job, record["config"], wish)


if __name__ == "__main__":
    commands = {
        "check": check,
        "rows": check_rows,
        "serve": serve,
        "export": export,
        "upload": upload,
    }
    sys.exit(commands[sys.argv[1]]() if sys.argv[1] in commands else run(sys.argv[2]))
