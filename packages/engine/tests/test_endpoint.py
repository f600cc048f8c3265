"""The protocols of other clients on the engine's address, where they cannot be served."""

from pathlib import Path

import httpx2
import pytest
from dreadnode_engine.http import endpoint
from dreadnode_engine.http.app import create_app
from dreadnode_engine.service.keys import Keyring
from dreadnode_engine.settings import Settings

MASTER = "tml-master-key-of-the-tests"


async def test_an_engine_alone_refuses_other_protocols_in_their_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "NEEDED", ("a_package_that_is_not_installed",))
    app = create_app(Settings(data_dir=tmp_path), {}, Keyring(MASTER))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://engine") as http,
    ):
        bearer = {"Authorization": f"Bearer {MASTER}"}
        alone = await http.get("/v1/models", headers=bearer)
        wrong = await http.post("/v1/messages", headers={"x-api-key": "tml-wrong-key"}, json={})

    assert alone.status_code == 404
    assert "`a_package_that_is_not_installed` is not installed" in alone.json()["error"]["message"]
    assert (wrong.status_code, wrong.json()["type"]) == (401, "error")
    assert wrong.json()["error"]["type"] == "authentication_error"
