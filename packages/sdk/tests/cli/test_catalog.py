"""`dn train catalog`, by transcripts: against a server, and without one."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from dreadnode.catalog import view
from dreadnode.cli.main import run
from dreadnode.training import TINKER_MODELS, search_training_models
from inline_snapshot import snapshot

Dn = Callable[[str], str]
ENGINE = {"age_seconds": 3.2, "serves": ["Qwen/Qwen3-8B"], "detail": None}
NUMBERS = {"limit": int, "offset": int, "min_context": int}
NUMBERS |= dict.fromkeys(("min_size_b", "max_size_b", "max_train", "max_sample"), float)


class CatalogApi:
    """Answers the catalog as the API does, and remembers what was asked."""

    def __init__(self) -> None:
        self.engine: dict[str, Any] = dict(ENGINE)
        self.queries: list[dict[str, str]] = []
        self.tinker: Any = {"supported_models": [{"model_name": "Qwen/Qwen3-8B"}]}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/get_server_capabilities"):
            assert request.headers["x-api-key"] == "tml-mine"
            return httpx2.Response(200, json=self.tinker)
        assert request.headers["authorization"] == "Bearer dn_test"
        asked = dict(request.url.params)
        self.queries.append(dict(asked))
        expand = view.expansions(asked.pop("expand", None))
        facets = asked.pop("facets", None) == "true"
        query = {name: NUMBERS.get(name, str)(value) for name, value in asked.items()}
        page = view.page(search_training_models(**query), expand, facets=facets)  # type: ignore[arg-type]
        if "available" in expand:
            page["engine"] = self.engine
            known = self.engine["age_seconds"] is not None
            for model in page["models"]:
                model["available"] = model["tinker_id"] in self.engine["serves"] if known else None
        return httpx2.Response(200, json=page)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> CatalogApi:
    monkeypatch.setenv("DREADNODE_SERVER", "http://server.test")
    monkeypatch.setenv("DREADNODE_API_KEY", "dn_test")
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    return CatalogApi()


@pytest.fixture
def dn(server: CatalogApi, capsys: pytest.CaptureFixture[str]) -> Dn:
    def call(line: str) -> str:
        code = run(shlex.split(line), transport=httpx2.MockTransport(server))
        said = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{said.out}--- stderr\n{said.err}"

    return call


def stdout(said: str) -> str:
    assert said.startswith("exit: 0"), said
    return said.partition("--- stdout\n")[2].partition("--- stderr\n")[0]


def test_the_table_shows_price_context_status_and_what_this_server_can_train(dn: Dn) -> None:
    assert dn("train catalog --query 8b --family qwen") == snapshot("""\
exit: 0
--- stdout
MODEL               SIZE  CONTEXT  PREFILL  SAMPLE  TRAIN  STATUS              HERE
Qwen/Qwen3-8B       8.2B  32K        0.195     0.6   0.44  active              yes
Qwen/Qwen3-8B-Base  8.2B  32K         0.13     0.4    0.4  retired 2026-06-12  no
--- stderr
prices in USD per million tokens; HERE as of 3 s ago
""")


@pytest.mark.parametrize("flags", ["", "--offline"])
def test_the_table_fits_80_columns_and_says_what_it_leaves_out(
    dn: Dn, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    shown = dn(f"train catalog --limit 100 {flags}")

    heading, *rows = stdout(shown).splitlines()
    assert heading.split()[:5] == ["MODEL", "SIZE", "CTX", "SAMPLE", "TRAIN"]
    assert max(map(len, (heading, *rows))) <= 80
    assert len(rows) > 40
    assert "`--csv` and `--json` show all columns and whole ids" in shown


def test_a_discount_an_unknown_price_and_an_extended_variant_are_shown(dn: Dn) -> None:
    assert dn("train catalog --family inkling --limit 2") == snapshot("""\
exit: 0
--- stdout
MODEL                           SIZE        CONTEXT        PREFILL  SAMPLE  TRAIN  STATUS  HERE
thinkingmachines/Inkling        41B active  64K (or 256K)  1.87*    4.68*   5.61*  active  no
thinkingmachines/Inkling-Small  12B active  64K (or 256K)  0.58*    1.44*   1.73*  active  no
--- stderr
prices in USD per million tokens; * discount that can end without notice; HERE as of 3 s ago
hint: 1 to 2 of 3; `--limit 3` shows more
""")


def test_facts_that_the_engine_does_not_report_are_not_guessed(dn: Dn, server: CatalogApi) -> None:
    server.engine = {"age_seconds": None, "serves": [], "detail": "The engine cannot be reached"}

    assert dn("train catalog --query qwen3-32b") == snapshot("""\
exit: 0
--- stdout
MODEL           SIZE   CONTEXT  PREFILL  SAMPLE  TRAIN  STATUS              HERE
Qwen/Qwen3-32B  32.8B  32K         0.49    1.47   1.47  retired 2026-06-12  ?
--- stderr
prices in USD per million tokens
the server does not know what its engine can train: The engine cannot be reached
""")


def test_offline_no_request_is_sent_and_the_date_of_the_copy_is_shown(
    dn: Dn, server: CatalogApi
) -> None:
    assert dn("train catalog --offline --family glm") == snapshot("""\
exit: 0
--- stdout
MODEL                              SIZE        CONTEXT  PREFILL  SAMPLE   TRAIN    STATUS
zai-org/GLM-5.3:peft:262144        40B active  256K     4.86     12.15    14.58    active
zai-org/GLM-5.3-Flash:peft:262144  18B active  256K     unknown  unknown  unknown  active
--- stderr
catalog of this program, of 2026-11-22; no server was asked
prices in USD per million tokens
""")
    assert server.queries == []


@pytest.mark.parametrize("where", ["", " --offline"])
def test_json_is_exactly_the_documented_response_online_and_offline(dn: Dn, where: str) -> None:
    answer = json.loads(stdout(dn(f"train catalog --family llama --min-size-b 7 --json{where}")))

    assert answer == view.page(search_training_models(family="llama", min_size_b=7))


@pytest.mark.parametrize("where", ["", " --offline"])
def test_json_can_be_expanded_and_counted(dn: Dn, where: str) -> None:
    answer = json.loads(
        stdout(dn(f"train catalog --limit 3 --json --expand lifecycle --facets{where}"))
    )

    assert {model["status"] for model in answer["models"]} == {"active"}
    assert answer["facets"]["status"] == {"active": 24, "retired": 21}


def test_every_filter_reaches_the_server(dn: Dn, server: CatalogApi) -> None:
    dn(
        "train catalog --search qwen --algorithm ppo --min-size-b 1 --max-size-b 40 --type moe "
        "--status active --min-context 65536 --max-train 5 --max-sample 9 --sort=-train --limit 7"
    )

    assert server.queries == snapshot(
        [
            {
                "query": "qwen",
                "algorithm": "ppo",
                "min_size_b": "1.0",
                "max_size_b": "40.0",
                "limit": "7",
                "type": "moe",
                "status": "active",
                "min_context": "65536",
                "max_sample": "9.0",
                "max_train": "5.0",
                "sort": "-train",
                "expand": "lifecycle,extended,prices,available",
            }
        ]
    )


def test_csv_contains_every_field_of_every_model(dn: Dn) -> None:
    rows = list(csv.DictReader(io.StringIO(stdout(dn("train catalog --csv --limit 100")))))

    by_id = {row["tinker_id"]: row for row in rows}
    assert list(by_id) == [model.tinker_id for model in TINKER_MODELS]
    assert by_id["Qwen/Qwen3.6-27B"]["replacement"] == "Qwen/Qwen3.8-27B"
    assert by_id["openai/gpt-oss-120b"]["extended_pricing_train"] == "2.33"
    assert by_id["zai-org/GLM-5.3-Flash:peft:262144"]["pricing_train"] == ""


def test_ids_are_printed_one_per_line(dn: Dn) -> None:
    assert stdout(dn("train catalog --ids --offline --family gpt-oss")) == snapshot("""\
openai/gpt-oss-120b
openai/gpt-oss-20b
""")


@pytest.mark.parametrize(
    "flags",
    [
        "--limit 0",
        "--limit 101",
        "--min-size-b -1",
        "--min-size-b 70 --max-size-b 8",
        "--algorithm grpo",
        "--sort name",
        "--query 'a\tb'",
        "--json --expand colour",
        "--json --csv",
        "--expand all",
        "--check --offline",
    ],
)
def test_an_invalid_filter_is_refused_in_one_sentence_before_a_request_is_sent(
    dn: Dn, server: CatalogApi, flags: str
) -> None:
    said = dn(f"train catalog {flags}")

    assert said.startswith("exit: 2\n--- stdout\n--- stderr\n")
    assert "error: `--" in said or '{"error": {"message": "`--' in said
    assert said.count("\n") == 4
    assert server.queries == []


def test_the_refusal_names_the_flag(dn: Dn) -> None:
    assert dn("train catalog --min-size-b 70 --max-size-b 8") == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `--min-size-b` of 70 is above `--max-size-b` of 8
""")


def test_an_empty_result_is_reported_and_not_an_error(dn: Dn) -> None:
    assert dn("train catalog --family mistral") == snapshot("""\
exit: 0
--- stdout
--- stderr
no models match
""")


def test_a_check_reports_the_difference_both_ways_and_fails(dn: Dn, server: CatalogApi) -> None:
    active = [model.tinker_id for model in TINKER_MODELS if model.status == "active"]
    server.engine["serves"] = [*active[3:], "Qwen/Qwen4-9B", "meta-llama/Llama-3.2-1B"]

    assert dn("train catalog --check") == snapshot("""\
exit: 1
--- stdout
served, not in the catalog      Qwen/Qwen4-9B
in the catalog, not served      thinkingmachines/Inkling
in the catalog, not served      thinkingmachines/Inkling-Small
in the catalog, not served      thinkingmachines/Inkling-2-Small
retired in the catalog, served  meta-llama/Llama-3.2-1B
--- stderr
the engine of http://server.test, compared with the catalog of 2026-11-22
error: the catalog and the served models differ in 5 models; see docs/reference/catalog.md
""")


def test_a_check_that_finds_no_difference_succeeds(dn: Dn, server: CatalogApi) -> None:
    server.engine["serves"] = [m.tinker_id for m in TINKER_MODELS if m.status == "active"]

    assert dn("train catalog --check --json") == snapshot("""\
exit: 0
--- stdout
{
  "source": "the engine of http://server.test",
  "catalog_as_of": "2026-11-22",
  "unknown": [],
  "missing": [],
  "not_retired": []
}
--- stderr
no difference: the catalog has all 24 served models
""")


def test_a_check_with_a_tinker_key_asks_tinker(
    dn: Dn, server: CatalogApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-mine")
    monkeypatch.setenv("TINKER_BASE_URL", "http://tinker.test")
    names = [m.tinker_id for m in TINKER_MODELS if m.status == "active"]
    server.tinker = {"supported_models": [{"model_name": name} for name in [*names, "new/one"]]}

    assert dn("train catalog --check") == snapshot("""\
exit: 1
--- stdout
served, not in the catalog      new/one
--- stderr
http://tinker.test, compared with the catalog of 2026-11-22
error: the catalog and the served models differ in 1 model; see docs/reference/catalog.md
""")


def test_a_check_against_another_engine_says_so(
    dn: Dn, server: CatalogApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-mine")
    monkeypatch.setenv("TINKER_BASE_URL", "http://tinker.test")
    server.tinker = {"hello": "world"}

    assert dn("train catalog --check") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: http://tinker.test responds, but not like Tinker; check `TINKER_BASE_URL`
""")


def test_a_check_without_an_engine_fails_instead_of_reporting_a_difference(
    dn: Dn, server: CatalogApi
) -> None:
    server.engine = {"age_seconds": None, "serves": [], "detail": "The engine cannot be reached"}

    assert dn("train catalog --check") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: the server's engine did not respond: The engine cannot be reached
""")
