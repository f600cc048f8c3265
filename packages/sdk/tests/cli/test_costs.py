"""`dn train cost` and `dn workspace budget`, by what they send and what they print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import httpx2
import pytest
from dreadnode.cli.main import run
from inline_snapshot import snapshot

Dn = Callable[[str], str]
TOKENS = {"prefill": 0, "cached_prefill": 0, "sample": 0, "train": 2500001}


def row(**fields: object) -> dict[str, object]:
    return {
        "key": "Qwen/Qwen3-8B",
        "name": None,
        "jobs": 2,
        "tokens": TOKENS,
        "usd": "1.10000044",
        "list_usd": "1.10000044",
        "reason": None,
        **fields,
    }


UNKNOWN = row(key="other", usd=None, list_usd=None, reason="The catalog has no published rate")
REPORT = {
    "group_by": "model",
    "month": "2026-11",
    "workspace": None,
    "items": [row(), UNKNOWN],
    "total": row(key="total", usd=None, list_usd=None, reason="The catalog has no published rate"),
}
BUDGET = {
    "workspace": "lab",
    "month": "2026-11",
    "monthly_limit_usd": "12.5",
    "used_usd": "2.25",
    "left_usd": "10.25",
}


@pytest.fixture
def sent() -> list[httpx2.Request]:
    return []


@pytest.fixture
def dn(
    sent: list[httpx2.Request], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Dn:
    names = {"SERVER": "http://server.test", "API_KEY": "dn_test"}
    for name, value in (names | {"ORGANIZATION": "main", "WORKSPACE": "lab"}).items():
        monkeypatch.setenv(f"DREADNODE_{name}", value)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json=BUDGET if "budget" in request.url.path else REPORT)

    def call(line: str) -> str:
        code = run(shlex.split(line), transport=httpx2.MockTransport(answer))
        out, err = capsys.readouterr()
        return f"exit: {code}\n--- stdout\n{out}--- stderr\n{err}"

    return call


def test_costs_are_a_table_and_unknown_ones_have_a_reason(
    dn: Dn, sent: list[httpx2.Request]
) -> None:
    assert dn("train cost --by model --month 2026-11") == snapshot("""\
exit: 0
--- stdout
MODEL          JOBS  PREFILL  CACHED PREFILL  SAMPLE      TRAIN  PAID   LIST
Qwen/Qwen3-8B     2        0               0       0  2,500,001  $1.10  $1.10
other             2        0               0       0  2,500,001  ?      ?
total             2        0               0       0  2,500,001  ?      ?
--- stderr
?: The catalog has no published rate
""")
    assert dict(sent[0].url.params) == {"group_by": "model", "month": "2026-11"}


def test_csv_and_json_hold_exact_amounts(dn: Dn) -> None:
    assert dn("train cost --by model --csv") == snapshot("""\
exit: 0
--- stdout
model,name,jobs,prefill,cached_prefill,sample,train,usd,list_usd,reason
Qwen/Qwen3-8B,,2,0,0,0,2500001,1.10000044,1.10000044,
other,,2,0,0,0,2500001,,,The catalog has no published rate
--- stderr
""")
    said = dn("train cost --json").partition("--- stdout\n")[2].partition("--- stderr")[0]
    assert json.loads(said)["items"][0]["usd"] == "1.10000044"


def test_a_budget_is_shown_set_and_removed(dn: Dn, sent: list[httpx2.Request]) -> None:
    assert dn("workspace budget") == snapshot("""\
exit: 0
--- stdout
workspace  lab
month      2026-11
limit      $12.50
used       $2.25
left       $10.25
--- stderr
""")
    dn("workspace budget 12.5")
    dn("workspace budget --remove")

    assert [request.method for request in sent] == ["GET", "PUT", "PUT"]
    assert [json.loads(each.content) for each in sent[1:]] == [
        {"monthly_limit_usd": 12.5},
        {"monthly_limit_usd": None},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("workspace budget 0", "the amount must be a number of US dollars above 0, not `0`"),
        ("workspace budget -- -1", "the amount must be a number of US dollars above 0, not `-1`"),
        ("workspace budget nan", "the amount must be a number of US dollars above 0, not `nan`"),
        ("train cost --month 13", "`--month` must be a month such as `2026-11`, not `13`"),
    ],
)
def test_what_is_not_an_amount_or_a_month_is_refused_before_anything_is_sent(
    dn: Dn, sent: list[httpx2.Request], line: str, reason: str
) -> None:
    assert dn(line) == f"exit: 2\n--- stdout\n--- stderr\nerror: {reason}\n"
    assert sent == []
