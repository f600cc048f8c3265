"""What browsers are told, and the page that describes the API."""

import re
from typing import Any

import pytest
from dreadnode_api.http.security_headers import SecurityHeaders

ALWAYS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    "path", ["/api/v1/user", "/api/v1/training/catalog", "/nowhere", "/health/live", "/metrics"]
)
async def test_every_response_forbids_scripts_and_frames(api: Any, path: str) -> None:
    headers = (await api.client.get(path)).headers

    assert ALWAYS.items() <= dict(headers).items()
    assert "strict-transport-security" not in headers


async def test_behind_tls_responses_ask_browsers_to_stay_on_it(api: Any) -> None:
    served = SecurityHeaders(api.app, tls=True)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/health/live", "query_string": b""}
    await served({**scope, "headers": []}, lambda: None, send)  # type: ignore[arg-type]

    assert b"strict-transport-security" in dict(sent[0]["headers"])


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_other_origins_are_not_allowed(api: Any, method: str) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}

    answer = await api(method, "/user", headers=headers)

    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_apis_page_loads_nothing_from_other_servers(api: Any) -> None:
    page = await api.client.get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert loaded
    for path in loaded:
        assert path.startswith("/docs/")
        assert (await api.client.get(path)).status_code == 200
    assert "<script>" not in page.text
    assert 'url: "/openapi.json"' in (await api.client.get("/docs/start.js")).text
    assert (await api.client.get("/openapi.json")).json()["openapi"].startswith("3.")


@pytest.mark.parametrize("path", ["../__init__.py", "..%2f__init__.py", "none.js", ""])
async def test_the_assets_are_files_of_their_folder_and_nothing_else(api: Any, path: str) -> None:
    answer = await api.client.get(f"/docs/assets/{path}")

    assert answer.status_code == 404
    assert answer.json()["type"] == "not_found_error"
