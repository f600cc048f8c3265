"""Every failure, expected or not, is answered in the documented envelope."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from dreadnode_api import errors
from dreadnode_api.main import create_app
from dreadnode_api.settings import Settings, SettingsError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TYPES = {
    400: "invalid_error", 401: "authentication_error", 403: "forbidden_error",
    404: "not_found_error", 405: "invalid_error", 409: "conflict_error", 422: "validation_error",
    426: "upgrade_required_error", 429: "usage_limit_exceeded_error", 500: "server_error",
    502: "bad_gateway_error", 503: "server_error", 504: "gateway_timeout_error",
}  # fmt: skip


def check(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the body of a refusal, which must have the documented form."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) <= {"code", "type", "detail", "errors"}
    assert (body["code"], body["type"]) == (status, TYPES[status])
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert "[" not in body["detail"]
    assert "]" not in body["detail"]
    for item in body.get("errors", []):
        assert set(item) == {"loc", "msg", "type"}
    assert answer.headers["X-Request-ID"]
    return body


async def test_an_unknown_path_is_a_404(api: Any) -> None:
    body = check(await api("GET", "/nothing/[here]"), 404)

    assert body["detail"] == "The path `/api/v1/nothing/(here)` does not exist; see `/docs`"


async def test_a_path_with_a_trailing_slash_is_not_redirected(api: Any) -> None:
    check(await api("GET", f"{api.jobs}/"), 404)


async def test_a_wrong_method_is_a_405_with_the_allowed_ones(api: Any) -> None:
    answer = await api("DELETE", "/user")

    check(answer, 405)
    assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/org/acme/datasets/rows/1.0.0", "DELETE, GET, PUT"),
        ("/org/acme/datasets/rows", "GET"),
        ("/org/acme/ws/lab/training/jobs", "GET, POST"),
        ("/org/acme/ws/lab/training/jobs/1/files/a/b", "GET, PUT"),
    ],
)
async def test_a_405_names_every_method_of_its_path(api: Any, path: str, allowed: str) -> None:
    answer = await api("PATCH", path)

    assert answer.headers["Allow"] == allowed
    check(answer, 405)


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN', b"'x'", b'"\\ud800'],
)
async def test_an_unreadable_body_is_a_400(api: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}

    check(await api("POST", api.jobs, content=body, headers=headers), 400)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b'"x"', b"1", b"{}", b'{"model": "\\u0000", "trainer_type": "sft"}'],
)
async def test_a_body_of_another_shape_is_a_422_with_fields(api: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}

    refused = check(await api("POST", api.jobs, content=body, headers=headers), 422)

    assert refused["errors"]


@one_database
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "application/x-www-form-urlencoded",
            "has the content type `application/x-www-form-urlencoded`",
        ),
        ("", "has no content type"),
    ],
)
async def test_a_body_without_a_json_content_type_is_a_422_that_names_the_header(
    api: Any, kind: str, said: str
) -> None:
    for path in (api.jobs, "/org/acme/tokens"):
        answer = await api("POST", path, content=b"{}", headers={"Content-Type": kind})

        body = check(answer, 422)
        advice = "send JSON as `Content-Type: application/json`"
        assert body["detail"] == f"`body`: the body {said}; {advice}"


@one_database
@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/org/acme/tokens", [], "`body`: give a JSON object"),
        ("/org/acme/tokens", {"name": ""}, "`name`: this must not be empty"),
        ("/org/acme/tokens", {"name": "x" * 101}, "`name`: give at most 100 characters, not 101"),
        (
            "/org/acme/ws",
            {"key": "Night_Shift"},
            (
                "`key`: use at most 63 lower-case letters, digits and hyphens, "
                "not starting with a hyphen"
            ),
        ),
        (
            "/org/acme/members",
            {"username": "ada", "email": "ada"},
            "`email`: give one address, such as `ada@example.com`",
        ),
    ],
)
async def test_a_refusal_describes_the_expected_value_in_words(
    api: Any, path: str, body: Any, detail: str
) -> None:
    assert check(await api("POST", path, json=body), 422)["detail"] == detail


@one_database
@pytest.mark.parametrize(
    "slip",
    [
        {"learning_rate": True}, {"learning_rate": "1e-4"}, {"steps": "5"}, {"steps": True},
        {"track": "tensorboard"}, {"train_on": 1}, {"shuffle": "no"}, {"shuffle": 0},
    ],
)  # fmt: skip
async def test_a_value_of_another_type_is_refused_and_not_converted(
    api: Any, slip: dict[str, Any]
) -> None:
    await api.push()
    config = {"dataset_ref": {"name": "rows", "version": "1.0.0"}, **slip}
    wish = {"model": "Qwen/Qwen3-8B", "trainer_type": "sft", "config": config}

    body = check(await api("POST", api.jobs, json=wish), 422)

    assert body["errors"][0]["loc"][:3] == ["body", "config", next(iter(slip))]
    assert await api.count() == 0


@one_database
async def test_a_refused_parameter_shows_no_pattern(api: Any) -> None:
    paths = api.app.openapi()["paths"]
    asked = 0
    for path, methods in paths.items():
        for name in re.findall(r"\{(\w+)", path):
            if "get" not in methods or name in ("tinker_id", "path"):
                continue
            url = re.sub(r"\{(\w+)\}", lambda m, name=name: "~" if m[1] == name else "a", path)
            answer = await api("GET", url.removeprefix("/api/v1"))

            if answer.status_code == 422:
                asked += 1
                detail = check(answer, 422)["detail"]
                assert re.search("`: (give|use) ", detail), (path, name, detail)
    assert asked > 20


@pytest.mark.parametrize("told", [True, False])
async def test_an_oversized_body_is_a_400(api: Any, told: bool) -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    content = b"x" * 2_000_000 if told else pieces()

    refused = check(await api("POST", api.jobs, content=content), 400)

    assert "1,048,576 bytes" in refused["detail"]


async def test_a_crash_is_a_500_with_a_reference_that_is_in_the_log(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @api.app.get("/api/v1/crash")
    async def crash() -> None:
        raise RuntimeError("the secret inside")

    body = check(await api("GET", "/crash"), 500)

    assert "secret" not in body["detail"]
    reference = body["detail"].split("`")[1]
    assert reference in caplog.text
    assert "the secret inside" in caplog.text


async def test_a_client_below_the_minimum_is_asked_to_upgrade(settings: Any) -> None:
    object.__setattr__(settings, "minimum_client", "dreadnode-sdk/2.1.0")
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:

        async def ask(agent: str) -> httpx2.Response:
            return await client.get("/health/live", headers={"User-Agent": agent})

        body = check(await ask("dreadnode-sdk/2.0.52"), 426)
        newer = [await ask(f"dreadnode-sdk/{v}") for v in ("2.1.0", "2.10", "3.0.0a1")]
        other = await ask("curl/8")
    await app.state.database.dispose()

    assert "2.1.0" in body["detail"]
    assert [answer.status_code for answer in (*newer, other)] == [200] * 4


@pytest.mark.parametrize(
    ("least", "client", "status"),
    [
        ("dreadnode/2.0.0", "dreadnode/2", 200),
        ("dreadnode/2", "dreadnode/2.0.0", 200),
        ("dreadnode/2.10", "dreadnode/2.9", 426),
    ],
)
async def test_client_versions_are_compared_numerically(
    settings: Any, least: str, client: str, status: int
) -> None:
    object.__setattr__(settings, "minimum_client", least)
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as asking:
        answer = await asking.get("/health/live", headers={"User-Agent": client})
    await app.state.database.dispose()

    assert answer.status_code == status


@pytest.mark.parametrize("least", ["0.2", "dreadnode", "dreadnode/", "dreadnode/0.2rc1", "/1"])
def test_a_minimum_that_would_admit_every_client_is_refused(tmp_path: Any, least: str) -> None:
    with pytest.raises(SettingsError, match="DREADNODE_MINIMUM_CLIENT"):
        Settings(data_dir=tmp_path, minimum_client=least)


@pytest.fixture
async def limited(
    api: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx2.AsyncClient, dict[str, str]]]:
    """A service with a rate limit of one request a second, and its tokens."""
    # However long a test takes, hardly an unknown token is added to the bucket.
    monkeypatch.setattr("dreadnode_api.auth.rates.UNKNOWN_RATE", 1e-6)
    object.__setattr__(settings, "rate_limit", 1.0)
    object.__setattr__(settings, "rate_burst", 2)
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client, api.keys
    await app.state.authenticator.close()
    await app.state.database.dispose()


async def test_a_token_above_its_rate_waits_and_others_do_not(limited: Any) -> None:
    client, tokens = limited

    async def ask(name: str) -> httpx2.Response:
        headers = {"X-API-Key": tokens[name]}
        answer: httpx2.Response = await client.get("/api/v1/user", headers=headers)
        return answer

    # The first request of a token that the server does not know yet counts for its address.
    first = [(await ask(name)).status_code for name in ("admin", "member")]
    allowed = [(await ask("admin")).status_code for _ in range(2)]
    refused = await ask("admin")
    other = await ask("member")
    await asyncio.sleep(float(refused.headers["Retry-After"]))
    later = await ask("admin")

    check(refused, 429)
    assert [*first, *allowed] == [200] * 4
    assert (other.status_code, later.status_code) == (200, 200)


async def test_unknown_tokens_are_limited_by_address_and_known_ones_are_not(limited: Any) -> None:
    client, tokens = limited

    async def ask(token: str) -> int:
        answer = await client.get("/api/v1/training/catalog", headers={"X-API-Key": token})
        return int(answer.status_code)

    known = await ask(tokens["admin"])
    invented = [await ask(f"dn_{number}") for number in range(60)]
    still_known = await ask(tokens["admin"])

    assert known == still_known == 200
    assert invented[0] == 401
    assert set(invented[50:]) == {429}


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\u061c"])
def test_bidirectional_control_characters_are_shown_escaped(character: str) -> None:
    shown = errors.plain(f"the file {character}gpj.exe")

    assert shown == f"the file \\u{ord(character):04x}gpj.exe"


async def test_a_request_keeps_its_request_id(api: Any) -> None:
    kept = await api("GET", "/user", headers={"X-Request-ID": "mine-1"})
    odd = await api("GET", "/user", headers={"X-Request-ID": "no good\t!"})

    assert kept.headers["X-Request-ID"] == "mine-1"
    assert odd.headers["X-Request-ID"] != "no good\t!"


async def test_health_reports_whether_the_process_is_alive_and_ready(api: Any) -> None:
    live = await api.client.get("/health/live")
    ready = await api.client.get("/health/ready")

    assert (live.status_code, ready.status_code) == (200, 200)


async def test_without_its_schema_the_service_is_not_ready(tmp_path: Any, settings: Any) -> None:
    object.__setattr__(settings, "database_url", f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    app = create_app(settings)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.get("/health/ready")
    await app.state.database.dispose()

    body = check(answer, 503)
    assert "python -m dreadnode_api init" in body["detail"]


async def test_metrics_count_requests_and_waiting_jobs(api: Any) -> None:
    await api.push()
    await api.job()

    text = (await api.client.get("/metrics")).text

    assert 'training_jobs{status="queued"} 1' in text
    assert 'http_requests_total{method="POST",status="201"} 1.0' in text
    assert "dn_" not in text


def test_openapi_needs_no_database(settings: Any) -> None:
    described = create_app(settings).openapi()

    create = described["paths"]["/api/v1/org/{org}/ws/{ws}/training/jobs"]["post"]
    assert {"400", "401", "403", "404", "409", "422", "426", "429", "500", "502", "504"} <= set(
        create["responses"]
    )


def test_the_errors_of_the_service_have_documented_types() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ApiError)
    ]

    assert {(cls.status, cls.type) for cls in classes} == set(TYPES.items())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["\0", "Qwen/Qwen3-8B", "sft", "rows", "1.0.0", "../..", "tinker", "[/x]"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "model", "base_model", "trainer_type", "config", "tags", "name", "rehearse", "backend",
    "capability_ref", "project_ref", "event_type", "metrics", "data", "artifacts", "error",
    "message", "level", "seq", "attempt", "role", "expires_in_days", "dataset_ref", "steps",
)  # fmt: skip
BODIES = JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, sound=st.booleans())
async def test_any_body_gets_a_response_below_500(api: Any, body: Any, sound: bool) -> None:
    if sound and isinstance(body, dict):
        body = {
            "model": "Qwen/Qwen3-8B",
            "trainer_type": "sft",
            "config": {"dataset_ref": {"name": "rows", "version": "1"}},
            **body,
        }
    for path in (api.jobs, "/org/acme/tokens"):
        answer = await api("POST", path, json=body)

        assert answer.status_code in (201, 422), answer.text
    assert await api.count() == 0


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, kind=st.sampled_from(["step_complete", "log", "phase", "training_start"]))
async def test_any_event_gets_a_response_below_500(api: Any, body: Any, kind: str) -> None:
    if not hasattr(api, "claimed"):
        await api.push()
        await api.job()
        api.claimed = await api.start()
    job, key = api.claimed
    if isinstance(body, dict):
        body = {"event_type": kind, **body}

    answer = await api("POST", f"{api.jobs}/{job['id']}/progress", key=key, json=body)

    assert answer.status_code in (200, 409, 422), answer.text
    read = [
        await api("GET", f"{api.jobs}/{job['id']}{part}")
        for part in ("", "/logs", "/artifacts", "/rl-context")
    ]
    assert [each.status_code for each in read] == [200] * 4


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.lists(
        st.sampled_from(
            ["org", "acme", "other", "ws", "lab", "training", "jobs", "datasets", "rows", "..",
             "%00", "%ff", "logs", "files", "events", "tokens", "catalog", "user", "[x]", "%2e%2e"]
        )
        | st.text(st.characters(codec="utf-8", exclude_characters="?#/\\"), max_size=8),
        max_size=9,
    ),
    query=st.dictionaries(
        st.sampled_from(["page", "page_size", "status", "after", "level", "tail", "query"]),
        st.integers() | st.text(max_size=8),
        max_size=3,
    ),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]),
)  # fmt: skip
async def test_any_path_gets_a_response_below_500(
    api: Any, path: list[str], query: dict[str, Any], method: str
) -> None:
    url = httpx2.URL(
        "http://api/api/v1/" + "/".join(quote(part, safe="%[]") for part in path), params=query
    )

    answer = await api.client.request(
        method, url, headers={"Authorization": f"Bearer {api.keys['admin']}"}
    )

    assert answer.status_code < 500, (method, url, answer.text)


async def test_any_token_gets_a_response_below_500(api: Any) -> None:
    for value in (
        b"Bearer",
        b"Bearer \xff\xfe",
        b"Basic abc",
        b"\x80" * 500,
        b"Bearer " + b"x" * 9999,
    ):
        answer = await api.client.get("/api/v1/user", headers={b"Authorization": value})

        check(answer, 401)


async def test_text_from_a_client_is_never_returned_as_markup(api: Any) -> None:
    refused = check(await api("POST", "/org/acme/tokens", json={"name": "x", "[/red]": 1}), 422)

    assert refused["detail"].startswith("`(/red)`: ")


@one_database
@pytest.mark.parametrize(
    ("value", "count", "limit"),
    [
        (b"{}", 60_000, "50,000"),
        (b"[]", 60_000, "50,000"),
        (b"1", 340_000, "300,000"),
        (b'""', 340_000, "300,000"),
    ],
)
async def test_a_body_with_very_many_values_is_refused_before_it_is_parsed(
    api: Any, value: bytes, count: int, limit: str
) -> None:
    body = b'{"name": [' + b",".join([value] * count) + b"]}"

    answer = await api("POST", "/org/acme/tokens", content=body)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"The body has more than {limit} values")


@one_database
async def test_a_complete_body_that_is_refused_is_not_waited_for(api: Any) -> None:
    body = b'{"name": [' + b",".join([b"{}"] * 60_000) + b"]}"
    headers = {
        b"authorization": f"Bearer {api.keys['admin']}".encode(),
        b"content-length": str(len(body)).encode(),
    }
    path = "/api/v1/org/acme/tokens"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": list(headers.items()), "client": ("127.0.0.1", 1),
        "server": ("api", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    reads, sent = iter([body]), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(reads), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await api.app(scope, receive, send)

    assert sent[0]["status"] == 400


@one_database
@pytest.mark.parametrize("value", ['a,[{:\\"' * 80_000, [7] * 131_072])
async def test_long_texts_and_prompts_of_token_ids_are_not_too_many_values(
    api: Any, value: Any
) -> None:
    body = {"model": "nothing", "prompt": value}

    headers = {"Authorization": f"Bearer {api.keys['member']}"}
    answer = await api.client.post("/v1/completions", json=body, headers=headers)

    assert answer.status_code == 404
    assert "no model and no job `nothing`" in answer.json()["error"]["message"]


@one_database
async def test_a_response_names_a_bounded_number_of_errors(api: Any) -> None:
    unknown = {f"key{number}": 1 for number in range(5000)}

    body = await api("POST", "/org/acme/tokens", json={"name": "x"} | unknown)
    query = await api("GET", "/org/acme/datasets", params=unknown)

    for answer in (body, query):
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == 50
    assert body.json()["detail"].endswith("and 4997 more")
