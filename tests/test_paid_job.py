"""Jobs that cost money, from the question to the bill, on an engine that charges for tokens."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from .server import MODEL, Server, free_port

KEY = "tml-of-the-engine-that-charges"
ROWS = [{"prompt": f"{n}+1?" * (1 + n % 3), "answer": f"{n + 1}"} for n in range(7)]
TURN = (
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2", "reasoning_content": "Add."},
)
# Qwen3 drops the reasoning of earlier turns, so each turn is a sequence of its own.
REWRITTEN = [{"messages": TURN * turns} for turns in (1, 2, 3, 2, 1)]
SHAPES = [
    (ROWS, ("--batch-size", "2", "--gradient-accumulation-steps", "2", "--epochs", "24"), 5),
    (REWRITTEN, ("--batch-size", "2", "--epochs", "16"), None),
]
"""Rows, flags, and the steps between evaluations; the last batch of an epoch is a partial one."""
WITHIN = 240.0  # seconds


@dataclass(frozen=True)
class Paid:
    """A server whose engine charges, and what this engine counts itself."""

    server: Server
    counter: Any

    def json(self, *arguments: str) -> Any:
        """Run a `dn` command that succeeds, and return what it prints."""
        done = self.server.dn(*arguments, "--json")
        assert done.code == 0, done
        return json.loads(done.out)

    def costs(self, *jobs: str) -> list[dict[str, Any]]:
        """Return the rows of JOBS in the report on costs."""
        rows = {row["key"]: row for row in self.json("train", "cost")["items"]}
        return [rows[job] for job in jobs]

    def kill_sandbox(self, job: str, attempt: int, tokens: int) -> int:
        """Kill a sandbox after at least TOKENS trained tokens; return what the engine counted.

        A pass is counted just before it is sent, so the sandbox is stopped first, and killed only
        if the engine has all that it has counted.
        """
        folder = self.server.data / "jobs" / job / str(attempt)
        usage, before = folder / "work" / "usage.json", self.counter.tokens()["train"]
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            if usage.exists() and json.loads(usage.read_text())["train"] >= tokens:
                sandbox = psutil.Process(json.loads((folder / "sandbox.json").read_text())["pid"])
                sandbox.suspend()
                while sandbox.status() != psutil.STATUS_STOPPED:
                    time.sleep(0.001)
                sent = int(self.counter.tokens()["train"] - before)
                if sent == json.loads(usage.read_text())["train"]:
                    sandbox.kill()
                    return sent
                sandbox.resume()
            time.sleep(0.01)
        raise AssertionError(f"attempt {attempt} never trained on {tokens} tokens")


@pytest.fixture(scope="module")
def paid(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    warm_engine: Any,
    engine_counter: Callable[[Path], Any],
) -> Iterator[Paid]:
    folder, port = tmp_path_factory.mktemp("paid"), free_port()
    engine = warm_engine.start(
        [
            *("serve", "--no-stand-in", "--no-hf-cache", "--data-dir", str(folder / "engine")),
            *("--port", str(port), "--threads", "1", "--model", f"{MODEL}={tiny_model}"),
        ],
        {**os.environ, "DREADNODE_ENGINE_KEY": KEY},
    )
    assert "http" in engine.stdout.readline()
    settings = {
        "TINKER_BASE_URL": f"http://127.0.0.1:{port}",
        "TINKER_API_KEY": KEY,
        "DREADNODE_ATTEMPTS": "2",
        "DREADNODE_RETRY_SECONDS": "0",
        "DREADNODE_POLL_SECONDS": "0.1",
    }
    server = Server(folder, None, settings=settings)
    try:
        server.start()
        yield Paid(server, engine_counter(folder / "engine"))
    finally:
        if server.process is not None:
            with contextlib.suppress(Exception):
                server.stop()
        engine.kill()
        engine.communicate()


def written(paid: Paid, name: str, rows: Sequence[Any]) -> str:
    (paid.server.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_the_estimate_the_bill_and_the_engines_own_count_are_equal(paid: Paid) -> None:
    rows = written(paid, "rows.jsonl", ROWS)
    flags = ("sft", "--model", MODEL, "--dataset", rows, "--batch-size", "3")
    flags += ("--epochs", "2", "--lora-rank", "4")
    paid.counter.forget()

    price = paid.json("train", "estimate", *flags)
    unasked = paid.server.dn("train", *flags)
    job = paid.json("train", *flags, "--yes", "--wait")
    (cost,) = paid.costs(job["id"])

    assert unasked.code != 0
    assert "--yes" in unasked.err
    assert price["is_exact"]
    assert price["at_most"]["tokens"] == job["cost"]["tokens"] == cost["tokens"]
    assert paid.counter.tokens() == cost["tokens"]
    assert cost["tokens"]["train"] > 0
    assert job["cost"]["paid"]
    assert price["at_most"]["usd"] == job["cost"]["usd"] == cost["usd"]


@pytest.mark.parametrize(("rows", "flags", "interval"), SHAPES)
def test_a_killed_and_retried_job_costs_its_estimate_and_what_was_sent_twice(
    paid: Paid, rows: Sequence[Any], flags: tuple[str, ...], interval: int | None
) -> None:
    flags += ("--model", MODEL, "--dataset", written(paid, "rows.jsonl", rows))
    flags += ("--lora-rank", "4", "--checkpoint-interval", "3")
    if interval is not None:
        flags += ("--eval-dataset", written(paid, "exam.jsonl", ROWS[:3]))
        flags += ("--eval-interval", str(interval))
    report = paid.json("train", "check", "sft", *flags)
    estimate = report["price"]["at_most"]["tokens"]["train"]
    evaluations = report["report"]["plan"]["evaluations"]
    paid.counter.forget()

    job = paid.json("train", "sft", *flags, "--yes")["id"]
    # The first kill makes another attempt, and the second one fails the job.
    sent = [paid.kill_sandbox(job, attempt, estimate // 4) for attempt in (1, 2)]
    failed = paid.server.dn("train", "wait", job)
    retry = paid.json("train", "retry", job, "--yes")
    end = paid.server.dn("train", "wait", retry["id"])
    costs = paid.costs(job, retry["id"])

    assert failed.code != 0, failed
    assert end.code == 0, end
    done = paid.json("train", "get", retry["id"])
    tokens = done["metrics"]["train/num_tokens"]
    evaluated, rest = divmod(estimate - sum(tokens), max(evaluations, 1))
    assert rest == 0
    start = retry["start_step"]
    assert start > 0

    def needed(steps: int) -> int:
        """Return the tokens of the first STEPS steps, with the evaluations after them."""
        return int(sum(tokens[:steps])) + (steps // interval * evaluated if interval else 0)

    lost = sum(sent) - needed(start)
    assert lost > 0
    assert [each["tokens"]["train"] for each in costs] == [sum(sent), estimate - needed(start)]
    assert paid.counter.tokens()["train"] == estimate + lost
    assert done["cost"]["earlier_usd"] == costs[0]["usd"]
