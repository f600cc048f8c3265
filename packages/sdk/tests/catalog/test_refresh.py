"""Refreshing the catalog: what a published list changes, and what is not believed."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dreadnode.catalog.published import SourceError, read
from dreadnode.catalog.refresh import Refresh, refresh
from dreadnode.training import TINKER_MODELS, TrainingModel, models

ROOT = Path(__file__).resolve().parents[4]
DAY = "2026-12-01"
Rows = dict[str, dict[str, Any]]


def row(tinker_id: str, model: TrainingModel, pricing: Any, context: int) -> dict[str, Any]:
    rates = ("prefill", "cached_prefill", "sample", "train")
    prices = {rate: getattr(pricing, rate, None) for rate in rates}
    return {
        "name": model.display_name,
        "tinker_id": tinker_id,
        "type": model.training_type,
        "arch": {"moe": "MoE", "dense": "Dense"}[model.type],
        "size": "Large",
        "context": f"{context // 1024}K",
        **{rate: "—" if price is None else f"${price}" for rate, price in prices.items()},
    }


@pytest.fixture
def rows() -> Rows:
    """What is published when nothing has changed, by id; a test changes what it is about."""
    published: Rows = {}
    for model in TINKER_MODELS:
        if model.status == "active":
            published[model.tinker_id] = row(
                model.tinker_id, model, model.pricing, model.context_length
            )
            if variant := model.extended:
                published[variant.tinker_id] = row(
                    variant.tinker_id, model, variant.pricing, variant.context_length
                )
    return published


def refreshed(rows: Rows) -> Refresh:
    return refresh(TINKER_MODELS, read(json.dumps(list(rows.values()))), DAY)


def entry(found: Refresh, tinker_id: str) -> TrainingModel:
    return next(model for model in found.models if model.tinker_id == tinker_id)


def test_an_unchanged_list_changes_only_the_date_of_confirmation(rows: Rows) -> None:
    found = refreshed(rows)

    assert found.lines == found.by_hand == ()
    assert {m.last_confirmed for m in found.models if m.status == "active"} == {DAY}
    assert [m.tinker_id for m in found.models] == [m.tinker_id for m in TINKER_MODELS]
    assert [m.pricing for m in found.models] == [m.pricing for m in TINKER_MODELS]


def test_changed_prices_and_contexts_are_shown_and_applied(rows: Rows) -> None:
    rows["Qwen/Qwen3-8B"] |= {"train": "$0.50", "context": "64K"}
    found = refreshed(rows)

    assert found.lines == (
        "Qwen/Qwen3-8B: context 32768 → 65536",
        "Qwen/Qwen3-8B: train 0.44 → 0.5",
    )
    model = entry(found, "Qwen/Qwen3-8B")
    assert (model.context_length, model.pricing_as_of) == (65536, DAY)
    assert model.pricing is not None
    assert (model.pricing.train, model.pricing.prefill) == (0.5, 0.195)


def test_a_price_missing_beside_a_changed_one_becomes_unknown(
    rows: Rows,
) -> None:
    rows["Qwen/Qwen3-8B"] |= {"prefill": "$0.30", "cached_prefill": "—"}
    pricing = entry(refreshed(rows), "Qwen/Qwen3-8B").pricing

    assert pricing is not None
    assert (pricing.prefill, pricing.cached_prefill) == (0.30, None)


def test_a_discount_ends_when_the_published_price_is_the_list_price(rows: Rows) -> None:
    rows["thinkingmachines/Inkling"] |= {
        "prefill": "$3.74",
        "cached_prefill": "$0.748",
        "sample": "$9.36",
        "train": "$11.22",
    }
    model = entry(refreshed(rows), "thinkingmachines/Inkling")

    assert model.pricing is not None
    assert model.pricing.prefill == 3.74
    assert model.promo is None
    assert model.list_pricing is None


def test_a_removed_model_is_retired_on_that_day_and_kept(rows: Rows) -> None:
    del rows["openai/gpt-oss-20b"]
    found = refreshed(rows)

    model = entry(found, "openai/gpt-oss-20b")
    assert found.lines == (f"openai/gpt-oss-20b: vanished, marked retired on {DAY}",)
    assert (model.status, model.retired_on, model.last_confirmed) == ("retired", DAY, "2026-10-07")
    assert len(found.models) == len(TINKER_MODELS)
    statuses = [each.status for each in found.models]
    assert statuses == sorted(statuses)


def test_a_retired_model_that_is_published_again_becomes_active(rows: Rows) -> None:
    old = next(model for model in TINKER_MODELS if model.tinker_id == "meta-llama/Llama-3.1-8B")
    rows[old.tinker_id] = row(old.tinker_id, old, old.pricing, old.context_length)
    found = refreshed(rows)

    model = entry(found, old.tinker_id)
    assert (model.status, model.retired_on) == ("active", None)
    assert any("published again on" in note for note in model.notes)
    assert "served again" in found.lines[0]


def test_a_new_model_gets_an_entry_of_the_known_facts_with_its_variant(rows: Rows) -> None:
    new = {
        "name": "Qwen4-60B-A4B",
        "tinker_id": "Qwen/Qwen4-60B-A4B",
        "type": "Hybrid + Vision",
        "arch": "MoE",
        "context": "128K",
        "prefill": "$0.60",
        "sample": "$1.50",
        "train": "$1.30",
    }
    longer = {**new, "tinker_id": "Qwen/Qwen4-60B-A4B:peft:524288", "context": "512K"}
    found = refreshed(rows | {"new": new, "longer": longer})

    model = entry(found, "Qwen/Qwen4-60B-A4B")
    assert (model.family, model.type, model.size_b, model.total_size_b) == ("qwen", "moe", 4, 60)
    assert (model.vision, model.audio, model.confidence) == (True, False, "medium")
    assert model.pricing is not None
    assert model.pricing.cached_prefill is None
    assert model.extended is not None
    assert model.extended.context_length == 512 * 1024
    assert model.first_seen == model.pricing_as_of == DAY


def test_a_model_of_unknown_size_is_named_and_not_guessed(rows: Rows) -> None:
    new = {"name": "X", "tinker_id": "somebody/Mystery", "arch": "MoE", "context": "32K"}
    found = refreshed(rows | {"new": new})

    assert found.by_hand == ("somebody/Mystery: appeared, and its size must be added by hand",)
    assert len(found.models) == len(TINKER_MODELS)


def test_an_id_served_for_sampling_only_is_not_trainable(rows: Rows) -> None:
    sampling = "thinkingmachines/Inkling:peft:262144:sampling-nvfp4"
    rows[sampling] = {"tinker_id": sampling, "context": "256K", "prefill": "$1.00"}
    found = refreshed(rows)

    assert found.lines == (f"{sampling}: served for sampling only, left out",)
    extended = entry(found, "thinkingmachines/Inkling").extended
    assert extended is not None
    assert extended.tinker_id == "thinkingmachines/Inkling:peft:262144"


def test_a_removed_variant_is_reported_and_not_dropped(rows: Rows) -> None:
    del rows["openai/gpt-oss-120b:peft:131072"]
    found = refreshed(rows)

    assert found.lines == (
        "openai/gpt-oss-120b:peft:131072: not published; see whether it is still served",
    )
    assert entry(found, "openai/gpt-oss-120b").extended is not None


def test_a_list_that_shrank_too_much_is_refused(rows: Rows) -> None:
    few = dict(list(rows.items())[:10])

    with pytest.raises(SourceError, match="too few to be believed"):
        refreshed(few)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "is not JSON"),
        ("{}", "is not a list of models"),
        ("[]", "or an empty one"),
        ("[1]", "model 1 of the source is not an object"),
        ('[{"name": "x"}]', "model 1 of the source has no usable `tinker_id`"),
        ('[{"tinker_id": "a/b\\n"}]', "no usable `tinker_id`"),
        ('[{"tinker_id": "a/b"}, {"tinker_id": "a/b"}]', "names `a/b` more than once"),
        ('[{"tinker_id": "a/b", "train": "free"}]', "the `train` price of `a/b` is not a price"),
        ('[{"tinker_id": "a/b", "train": "$0"}]', "is not a price"),
        ('[{"tinker_id": "a/b", "train": "-1"}]', "is not a price"),
        ('[{"tinker_id": "a/b", "train": "nan"}]', "is not a price"),
        ('[{"tinker_id": "a/b", "context": "long"}]', "is not a number of tokens"),
        ('[{"tinker_id": "a/b", "context": 0}]', "is not a number of tokens"),
    ],
)
def test_an_unreadable_source_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(text)

    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("context", "tokens"), [("64K", 65536), ("1M", 1048576), ("32768", 32768), (32768, 32768)]
)
def test_k_is_1024_tokens(context: object, tokens: int) -> None:
    assert read(json.dumps([{"tinker_id": "a/b", "context": context}]))[0].context_length == tokens


@pytest.fixture
def tool(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run the script on a copy of the catalog's source."""
    copy = tmp_path / "models.py"
    copy.write_text(Path(models.__file__).read_text(encoding="utf-8"), encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts" / "refresh_catalog.py"), *arguments]
        done = subprocess.run(
            [*command, "--into", str(copy), "--day", DAY],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_tool_shows_changes_first_and_writes_valid_python_on_request(
    tool: Callable[..., tuple[int, str]], rows: Rows, tmp_path: Path
) -> None:
    del rows["openai/gpt-oss-20b"]
    source = tmp_path / "published.json"
    source.write_text(json.dumps(list(rows.values())), encoding="utf-8")
    before = (tmp_path / "models.py").read_text(encoding="utf-8")
    shown = tool(str(source))
    untouched = (tmp_path / "models.py").read_text(encoding="utf-8")
    written = tool(str(source), "--write")
    space: dict[str, Any] = {"__name__": "written"}
    sys.modules["written"] = sys.modules[__name__]
    exec((tmp_path / "models.py").read_text(encoding="utf-8"), space)

    assert shown[0] == written[0] == 0
    assert "vanished" in shown[1]
    assert "nothing was written" in shown[1]
    assert untouched == before
    assert space["CATALOG_AS_OF"] == DAY
    assert space["get_training_model"]("openai/gpt-oss-20b").retired_on == DAY


def test_the_tool_refuses_a_broken_or_missing_source(
    tool: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("[{}]", encoding="utf-8")

    assert tool(str(broken), "--write") == (
        1,
        "error: model 1 of the source has no usable `tinker_id`: None\n",
    )
    assert tool(str(tmp_path / "none.json"))[0] == 1


@pytest.fixture
def site(rows: Rows) -> Iterator[str]:
    """A web site that publishes the list and turns Python's own user agent away."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = "python" in self.headers["User-Agent"].lower()
            self.send_response(403 if refused else 200)
            self.end_headers()
            self.wfile.write(json.dumps(list(rows.values())).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/models.json"
        server.shutdown()


def test_the_tool_fetches_a_url_with_its_own_user_agent(
    tool: Callable[..., tuple[int, str]], site: str
) -> None:
    assert tool(site) == (0, "no difference\n")
