"""The console over plain HTTP: sign-in, sessions, forms, headers, and errors as pages."""

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from dreadnode_api.auth.cookies import Cookies
from dreadnode_api.auth.guard import ANONYMOUS_BYTES
from dreadnode_api.console import assets
from dreadnode_api.main import create_app
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import Job, Tally
from dreadnode_api.settings import Settings
from sqlalchemy import insert, inspect, update

# One database is enough for what does not depend on it; the tests of the jobs' pages use both.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HTML = {"Accept": "text/html"}
ROW = re.compile(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", re.MULTILINE)


async def test_the_start_page_leads_over_the_sign_in_to_the_jobs(api: Any, console: Any) -> None:
    first = await console.get("/")
    signed_in = await console.sign_in()
    second = await console.get("/")
    page = await console.get(second.headers["location"])

    assert first.status_code == 303
    assert first.headers["location"] == "/sign-in?to=/"
    assert signed_in.status_code == 303
    assert second.headers["location"] == "/ws/lab/jobs"
    assert "No jobs yet" in page.text


async def test_programs_that_ask_for_the_start_page_get_what_they_got_before(api: Any) -> None:
    for headers in ({}, {"Accept": "application/json"}, {"Accept": "*/*"}):
        answer = await api.client.get("/", headers=headers)

        assert answer.status_code == 404
        assert answer.json() == {
            "code": 404,
            "type": "not_found_error",
            "detail": "The path `/` does not exist; see `/docs`",
        }


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    api: Any, console: Any
) -> None:
    plain = (await console.sign_in()).headers["set-cookie"]
    api.app.state.cookies = Cookies(tls=True)
    api.client.cookies.clear()
    secure = (await console.get("/sign-in")).headers["set-cookie"]

    for flag in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert flag.lower() in plain.lower()
        assert flag.lower() in secure.lower()
    assert "secure" not in plain.lower()
    assert "secure" in secure.lower()
    assert secure.startswith("__Host-")
    assert api.keys["admin"] not in plain


async def test_over_tls_only_the_cookie_that_no_other_host_can_set_counts(
    console: Any, settings: Settings
) -> None:
    await console.sign_in()
    secret = console.api.client.cookies["dreadnode_session"]
    app = create_app(settings.model_copy(update={"public_url": "https://train.example"}))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="https://train.example") as client:
        plain, prefixed = [
            await client.get("/ws/lab/jobs", headers={**HTML, "Cookie": f"{name}={secret}"})
            for name in ("dreadnode_session", "__Host-dreadnode_session")
        ]
    await app.state.database.dispose()

    assert (plain.status_code, prefixed.status_code) == (303, 200)


async def test_a_form_without_a_session_is_refused_before_its_body(api: Any) -> None:
    asked: list[str] = []

    async def body(path: str) -> AsyncIterator[bytes]:
        asked.append(path)
        yield b"form_token=none"

    # A client that waits for permission to send its body has none of it read.
    headers = {**HTML, "Expect": "100-continue"}
    for path in ("/ws/lab/new-job", "/ws/lab/jobs/none/cancel", "/sign-out"):
        for cookie in ("", "dreadnode_session=invented"):
            sent = {**headers, "Cookie": cookie}
            answer = await api.client.post(path, content=body(path), headers=sent)

            assert answer.status_code == 401
            assert "sign in" in answer.text.lower()
    large = await api.client.post("/sign-in", content=b"x" * (ANONYMOUS_BYTES + 1), headers=HTML)

    assert asked == []
    assert large.status_code == 400
    assert "larger than the limit of 16,384 bytes" in large.text


async def test_neither_a_page_nor_the_database_holds_the_token_or_the_cookie(
    api: Any, console: Any
) -> None:
    await console.sign_in()
    cookie = api.client.cookies["dreadnode_session"]
    page = await console.get("/ws/lab/jobs")
    async with api.database.engine.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT * FROM browser_sessions")).all()

    assert api.keys["admin"] not in page.text
    assert cookie not in page.text
    assert len(rows) == 1
    assert rows[0][0] == hashlib.sha256(cookie.encode()).hexdigest()


@pytest.mark.parametrize("token", ["", "dn_invented", "\u2603" * 40])
async def test_a_token_that_is_not_valid_is_refused_on_the_form(
    api: Any, console: Any, token: str
) -> None:
    answer = await console.sign_in(token)

    assert answer.status_code in (401, 422)
    assert 'role="alert"' in answer.text
    assert "dreadnode_session" not in api.client.cookies


async def test_the_token_of_a_job_cannot_sign_in(api: Any, console: Any) -> None:
    await api.push()
    await api.job()
    _, key = await api.start()

    answer = await console.sign_in(key)

    assert answer.status_code == 403
    assert "cannot sign in" in answer.text


async def test_sign_ins_with_invented_tokens_are_limited(
    console: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the test takes, hardly a token is added to the bucket.
    monkeypatch.setattr("dreadnode_api.auth.rates.UNKNOWN_RATE", 1e-6)
    app = create_app(settings.model_copy(update={"rate_limit": 100.0}))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        page = await client.get("/sign-in", headers=HTML)
        data = {"token": "dn_x", "form_token": console.form_token(page)}
        tried = [(await client.post("/sign-in", data=data)).status_code for _ in range(42)]
    await app.state.database.dispose()

    assert tried[0] == 401
    assert tried[-1] == 429


async def test_a_revoked_token_ends_the_session_with_a_sentence(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REFRESH_SECONDS", "STALE_SECONDS"):
        monkeypatch.setattr(f"dreadnode_api.auth.callers.{name}", 0.0)
    made = (await api("POST", "/org/acme/tokens", json={"name": "short"})).json()
    await console.sign_in(made["token"])
    before = await console.get("/ws/lab/jobs")
    await api("DELETE", f"/org/acme/tokens/{made['id']}")

    page = await console.get("/ws/lab/jobs?status=failed")
    fragment = await console.get("/ws/lab/jobs", **{"HX-Request": "true"})
    form = await console.get(page.headers["location"])

    assert before.status_code == 200
    assert page.headers["location"] == "/sign-in?to=/ws/lab/jobs%3Fstatus%3Dfailed&ended=true"
    assert fragment.status_code == 401
    assert "not signed in any more" in fragment.text
    assert "Your session has ended" in console.text(form)


async def test_signing_out_ends_the_session_everywhere(api: Any, console: Any) -> None:
    await console.sign_in()
    cookie = api.client.cookies["dreadnode_session"]
    token = console.form_token(await console.get("/ws/lab/jobs"))
    await api.client.post("/sign-out", data={"form_token": token})

    again = await console.get("/ws/lab/jobs", Cookie=f"dreadnode_session={cookie}")

    assert again.status_code == 303
    assert again.headers["location"].startswith("/sign-in")


@pytest.mark.parametrize("sent", [{}, {"form_token": "0" * 64}, {"form_token": "\u2603"}])
async def test_a_form_without_its_token_is_refused(
    api: Any, console: Any, sent: dict[str, str]
) -> None:
    await console.sign_in()

    form = await api.client.post("/sign-out", data=sent, headers=HTML)
    script = await api.client.post("/sign-out", headers={"X-Form-Token": "none"})

    assert form.status_code == script.status_code == 403
    assert "not sent by this site" in console.text(form)
    assert (await console.get("/ws/lab/jobs")).status_code == 200


async def test_every_form_of_every_page_and_every_route_that_writes_checks_the_token(
    api: Any,
    console: Any,
) -> None:
    await console.sign_in()
    for route in api.app.routes:
        methods, path = getattr(route, "methods", set()) or set(), getattr(route, "path", "")
        if not path.startswith(("/api/", "/v1/")) and methods & {"POST", "PUT", "PATCH", "DELETE"}:
            url = re.sub(r"\{ws\}", "lab", re.sub(r"\{job_id\}", "none", path))
            for method in methods:
                answer = await api.client.request(method, re.sub(r"\{[^}]*\}", "x", url))

                assert answer.status_code == 403, (method, path)


@pytest.mark.parametrize("to", ["//evil.example", "/\\evil.example", "https://evil.example", "/ x"])
async def test_the_sign_in_leads_to_no_other_site(api: Any, console: Any, to: str) -> None:
    page = await api.client.get("/sign-in")
    data = {"token": api.keys["admin"], "to": to, "form_token": console.form_token(page)}

    answer = await api.client.post("/sign-in", data=data)

    assert answer.headers["location"] == "/"


async def test_a_link_of_another_site_keeps_the_session(api: Any, console: Any) -> None:
    followed = await console.get("/ws/lab/jobs", **{"Sec-Fetch-Site": "cross-site"})

    assert followed.status_code == 200
    assert 'http-equiv="refresh"' in followed.text


async def test_pages_allow_scripts_of_this_server_only_and_are_not_stored(
    api: Any, console: Any
) -> None:
    await console.sign_in()
    for path in ("/sign-in", "/ws/lab/jobs", "/ws/nowhere/jobs"):
        headers = (await console.get(path)).headers

        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


async def test_what_a_page_loads_is_kept_by_browsers_and_compressed(api: Any, console: Any) -> None:
    page = await console.get("/sign-in", **{"Accept-Encoding": "gzip"})
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    sizes = [len(page.content)]
    for path in loaded:
        answer = await api.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        sizes.append(int(answer.headers["content-length"]))

    assert len(loaded) >= 5
    assert sum(sizes) < 60_000
    assert (await api.client.get(loaded[0].replace("/static/", "/static/0"))).status_code == 404
    assert not re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)


async def test_vendored_files_are_those_that_their_list_names(database_url: str) -> None:
    folder = assets.FOLDER / "vendor"
    listed = dict(ROW.findall((folder / "README.md").read_text()))
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in assets.TYPES
    }

    assert found == listed
    assert len(list(folder.glob("LICENSE-*.txt"))) == 2


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/nowhere", 404, "The path /nowhere does not exist"),
        ("/ws/nowhere/jobs", 404, "This organization has no workspace nowhere"),
        ("/ws/lab/jobs?status=lost", 422, "status"),
        ("/ws/lab/jobs?sttaus=failed", 422, "did you mean status ?"),
        ("/ws/lab/jobs?before=%00", 422, "before"),
    ],
)
async def test_an_error_is_a_sentence_in_the_layout(
    api: Any, console: Any, path: str, status: int, sentence: str
) -> None:
    await console.sign_in()

    page = await console.get(path)

    assert page.status_code == status
    assert sentence in console.text(page)
    assert "<nav" in page.text or "Start page" in page.text


async def test_a_crash_is_a_page_with_a_reference(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    await console.sign_in()
    monkeypatch.setattr("dreadnode_api.jobs.service.list_jobs", crash)

    page = await console.get("/ws/lab/jobs")

    assert page.status_code == 500
    assert "look for the reference" in console.text(page)
    assert "boom" not in page.text


def ids(page: httpx2.Response) -> list[str]:
    return re.findall(r'<tr id="job-([^"]+)"', page.text)


async def test_the_list_filters_and_pages_jobs(
    api: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode_api.console.job_list.PAGE_SIZE", 2)
    await api.push()
    jobs = [await api.job(name=f"try {n}", tags=["a" if n else "b"]) for n in range(3)]
    await console.sign_in()

    first = await console.get("/ws/lab/jobs")
    older = re.search(r'href="([^"]*before=[^"]*)"', first.text)
    assert older is not None
    second = await console.get(older[1].replace("&amp;", "&"))
    named = await console.get("/ws/lab/jobs?text=TRY+1&status=&trainer_type=&model=&username=&tag=")
    tagged = await console.get("/ws/lab/jobs?tag=b")
    none = await console.get("/ws/lab/jobs?status=failed")

    assert ids(first) == [jobs[2]["id"], jobs[1]["id"]]
    assert ids(second) == [jobs[0]["id"]]
    assert ids(named) == [jobs[1]["id"]]
    assert ids(tagged) == [jobs[0]["id"]]
    assert ids(none) == []
    assert "No job matches these filters" in none.text


async def test_a_list_of_ten_thousand_jobs_shows_a_page_and_their_number(
    api: Any, console: Any
) -> None:
    await api.push()
    first = await api.job()
    async with api.database.writing() as session:
        job = await session.get_one(Job, first["id"])
        row = {name: getattr(job, name) for name in inspect(Job).column_attrs.keys()}  # noqa: SIM118
        await session.execute(insert(Job), [row | {"id": new_id()} for _ in range(9_999)])
        await session.execute(update(Tally).where(Tally.status == "queued").values(number=10_000))
    await console.sign_in()

    page = await console.get("/ws/lab/jobs")
    last = await console.get(f"/ws/lab/jobs?before={first['id']}")

    assert len(ids(page)) == 25
    assert "10,000 jobs" in console.text(page)
    assert ids(last) == []
    assert "No job matches" in console.text(last)


async def test_another_organizations_pages_do_not_exist(api: Any, console: Any) -> None:
    await api.push()
    job = await api.job(name="ours")
    await console.sign_in("stranger")

    listed = await console.get("/ws/lab/jobs")

    assert job["id"] not in listed.text
    assert "ours" not in listed.text
