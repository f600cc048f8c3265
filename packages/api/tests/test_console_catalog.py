"""The pages of the catalog in the console."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MODEL = "Qwen/Qwen3-8B"


def listed(page: Any) -> list[str]:
    return re.findall(r'<td class="wide"><div class="pick"><input[^>]* value="([^"]+)"', page.text)


async def test_a_search_as_one_types_finds_what_the_apis_search_finds(
    api: Any, console: Any
) -> None:
    await console.sign_in("reader")
    for query in ("query=qwen+8b", "family=llama&sort=-size_b", "status=retired&max_train=1"):
        found = (await api("GET", f"/training/catalog?{query}&limit=100")).json()
        page = await console.get(f"/ws/lab/catalog?{query}", **{"HX-Request": "true"})

        assert listed(page) == [each["tinker_id"] for each in found["models"]]
        assert "<html" not in page.text


async def test_a_form_with_empty_fields_shows_all_and_only_trainable_ones_on_request(
    api: Any, console: Any
) -> None:
    await console.sign_in("reader")

    every = await console.get("/ws/lab/catalog?query=&min_context=&max_train=&sort=")
    trainable = await console.get("/ws/lab/catalog?trainable=true")

    assert len(listed(every)) == (await api("GET", "/training/catalog")).json()["total"]
    assert listed(trainable) == [MODEL]


async def test_ticked_models_stay_while_one_searches_on_and_are_compared(
    api: Any, console: Any
) -> None:
    await console.sign_in("reader")
    searched = await console.get(f"/ws/lab/catalog?family=llama&chosen={MODEL}")
    other = listed(searched)[0]

    page = await console.get(f"/ws/lab/catalog/compare?chosen={MODEL}&chosen={other}")
    one = await console.get(f"/ws/lab/catalog/compare?chosen={MODEL}")
    five = await console.get(
        "/ws/lab/catalog/compare?" + "&".join(f"chosen={each}" for each in listed(searched))
    )

    assert f'value="{MODEL}" checked' in searched.text
    assert "Qwen3-8B" in console.text(page)
    assert "Prefill, per million" in console.text(page)
    assert "Choose 2 to 4 models to compare, not 1" in console.text(one)
    assert "not 6" in console.text(five)


async def test_an_entry_shows_terms_lifecycle_and_a_ready_command(api: Any, console: Any) -> None:
    await console.sign_in()

    page = await console.get(f"/ws/lab/catalog/{MODEL}")

    assert "dn train sft" in console.text(page)
    assert f"--model {MODEL}" in console.text(page)
    assert "$0.440" in console.text(page)
    assert "Last confirmed 2026-10-07" in console.text(page)


SENTENCES = [
    ("catalog/Qwen/Qwen3-8", 404, "Did you mean one of: Qwen/Qwen3-8B, Qwen/Qwen3-8B-Base?"),
    ("catalog?sort=beauty", 422, "sort must be one of"),
    ("catalog?max_train=-1", 422, "max_train must be a number of 0 or more"),
    ("catalog?query=%3Cscript%3E", 200, "No model matches"),
    ("catalog?query=" + "\uff37" * 200, 200, "No model matches"),
    ("catalog?chosen=none/such", 404, "Unknown training base model"),
]


async def test_what_cannot_be_found_is_a_sentence(console: Any) -> None:
    await console.sign_in("reader")
    for path, status, sentence in SENTENCES:
        page = await console.get(f"/ws/lab/{path}")

        assert page.status_code == status
        assert sentence in console.text(page)
        assert "<script>" not in page.text


async def test_the_catalog_is_shown_while_the_engine_does_not_respond(
    console: Any, engine: Any
) -> None:
    engine.status = 500
    await console.sign_in("reader")

    page = await console.get("/ws/lab/catalog")

    assert len(listed(page)) > 10
    assert "What this server can train is unknown" in console.text(page)
