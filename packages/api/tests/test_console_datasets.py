"""The pages of datasets in the console."""

import json
import re
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def numbers(page: Any) -> list[int]:
    """The numbers of the rows that a page shows."""
    found = re.findall(r'<li><span class="quiet small">([\d,]+)</span>', page.text)
    return [int(each.replace(",", "")) for each in found]


async def test_rows_are_paged_as_they_are_stored(api: Any, console: Any) -> None:
    rows = [{"prompt": f"question {n}", "response": "<script>alert(1)</script>"} for n in range(60)]
    rows[1] = {"prompt": "\uff37" * 5000, "response": "x"}
    await api.push("many", body=b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    await console.sign_in("reader")

    first = await console.get("/ws/lab/datasets/many")
    page = await console.get(first.headers["location"])
    seen = numbers(page)
    while more := re.search(r'href="([^"]*row=[^"]*)" rel="next"', page.text):
        page = await console.get(more[1].replace("&amp;", "&"))
        seen += numbers(page)

    assert seen == list(range(1, 61))
    assert "question 59" in page.text
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text


async def test_a_version_names_the_jobs_that_use_it(api: Any, console: Any) -> None:
    await api.push()
    await api.push(version="1.0.1")
    await api.push("other")
    job = await api.job(name="user of rows")
    await console.sign_in("reader")

    used = await console.get("/ws/lab/datasets/rows/1.0.0/jobs")
    unused = await console.get("/ws/lab/datasets/rows/1.0.1/jobs")
    listed = await console.get("/ws/lab/datasets?search=row")

    assert job["id"] in used.text
    assert "No job of this workspace uses this version" in unused.text
    assert "rows/1.0.1" in listed.text
    assert "other" not in console.text(listed)


async def test_a_row_is_rendered_for_a_model_and_only_for_members(api: Any, console: Any) -> None:
    await api.push()
    path = "/ws/lab/datasets/rows/1.0.0/rendered?model={}&row=2&split=train"
    await console.sign_in("member")
    shown = await console.get(path.format("Qwen/Qwen3-8B"))
    wrong = await console.get(path.format("Qwen/Qwen3-8"))
    api.client.cookies.clear()
    await console.sign_in("reader")
    reader = await console.get(path.format("Qwen/Qwen3-8B"))
    page = await console.get("/ws/lab/datasets/rows/1.0.0")

    assert shown.status_code == 200, console.text(shown)
    assert "<mark>" in shown.text
    assert "Did you mean" in wrong.text
    assert reader.status_code == 403
    assert "As rendered" not in page.text


async def test_another_organizations_datasets_do_not_exist(api: Any, console: Any) -> None:
    await api.push()
    await console.sign_in("stranger")

    listed = await console.get("/ws/lab/datasets")
    pages = [
        await console.get(f"/ws/lab/datasets/rows{path}")
        for path in ("", "/1.0.0", "/1.0.0/jobs", "/1.0.0/rendered?model=Qwen/Qwen3-8B")
    ]

    assert "No datasets yet" in listed.text
    assert [page.status_code for page in pages] == [404, 404, 404, 422]
    assert "no dataset rows" in console.text(pages[-1])
