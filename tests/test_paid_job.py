"""A job that costs money, from the question to the bill, on an engine that charges for tokens."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .server import MODEL, Server, free_port

KEY = "tml-of-the-engine-that-charges"
ROWS = [{"prompt": f"{n}+1?" * (1 + n % 3), "answer": f"{n + 1}"} for n in range(7)]


def test_the_estimate_the_bill_and_the_engines_own_count_are_equal(
    tmp_path: Path,
    tiny_model: Path,
    warm_engine: Any,
    engine_counter: Callable[[Path], Any],
) -> None:
    port, data = free_port(), tmp_path / "engine"
    engine = warm_engine.start(
        [
            *("serve", "--no-stand-in", "--no-hf-cache", "--data-dir", str(data)),
            *("--port", str(port), "--threads", "1", "--model", f"{MODEL}={tiny_model}"),
        ],
        {**os.environ, "DREADNODE_ENGINE_KEY": KEY},
    )
    assert "http" in engine.stdout.readline()
    address = {"TINKER_BASE_URL": f"http://127.0.0.1:{port}", "TINKER_API_KEY": KEY}
    server = Server(tmp_path, None, settings=address)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    flags = ("sft", "--model", MODEL, "--dataset", "rows.jsonl", "--batch-size", "3")
    flags += ("--epochs", "2", "--lora-rank", "4", "--json")
    try:
        server.start()
        counter = engine_counter(data)

        estimate = server.dn("train", "estimate", *flags)
        unasked = server.dn("train", *flags)
        done = server.dn("train", *flags, "--yes", "--wait")
        cost = server.dn("train", "cost", "--json")
    finally:
        if server.process is not None:
            server.stop()
        engine.kill()
        engine.communicate()

    assert (estimate.code, done.code, cost.code) == (0, 0, 0), (estimate, done, cost)
    assert unasked.code != 0
    assert "--yes" in unasked.err
    price, job = json.loads(estimate.out), json.loads(done.out)
    total = json.loads(cost.out)["total"]
    assert price["is_exact"]
    assert price["at_most"]["tokens"] == job["cost"]["tokens"] == total["tokens"]
    assert counter.tokens() == total["tokens"]
    assert total["tokens"]["train"] > 0
    assert job["cost"]["paid"]
    assert price["at_most"]["usd"] == job["cost"]["usd"] == total["usd"]
