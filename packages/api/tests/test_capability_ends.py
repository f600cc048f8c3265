"""How capabilities leave the server: fetched by address, deleted by version, never published."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.auth import signed
from dreadnode_api.auth.tokens import sha256
from dreadnode_api.capabilities.archive import entry_prompt
from dreadnode_api.settings import Settings

# What they ask of the database, other tests try on both.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HARBOUR = "/org/acme/capabilities/harbour/1.0.0"


async def ask(api: Any, address: str) -> Any:
    """Follow an address without a key, as a browser or `curl` does."""
    return await api.client.get(address)


@pytest.fixture
async def address(api: Any) -> str:
    """Where the archive of a capability can be fetched."""
    await api("PUT", HARBOUR, json={"prompt": "Begin with Ahoy.", "description": 'The "desk"'})
    told = (await api("GET", f"{HARBOUR}/bundle", key="reader")).json()
    return str(told["download_url"])


async def test_the_archive_can_be_downloaded_with_its_address_alone(
    api: Any, address: str, tmp_path: Path
) -> None:
    fetched = await ask(api, address)

    assert fetched.status_code == 200, fetched.text
    assert fetched.headers["content-type"] == "application/gzip"
    assert address.startswith("http://api/api/v1/org/acme/capabilities/harbour/1.0.0/archive?")
    (tmp_path / "archive").write_bytes(fetched.content)
    found = entry_prompt(tmp_path / "archive", "harbour")
    assert found == ("harbour", "Begin with Ahoy.")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(fetched.content))) as tar:
        assert tar.getnames() == ["capability.yaml", "agents/harbour.md"]
        manifest = tar.extractfile("capability.yaml")
        assert manifest is not None
        assert b'description: "The \\"desk\\""' in manifest.read()


async def test_the_archive_can_be_downloaded_with_a_token(api: Any, address: str) -> None:
    by_key = await api("GET", f"{HARBOUR}/archive", key="reader")

    assert by_key.content == (await ask(api, address)).content


async def test_a_changed_address_gives_access_to_nothing(api: Any, address: str) -> None:
    await api("PUT", "/org/acme/capabilities/harbour/2.0.0", json={"prompt": "Secret"})
    changed = [
        address.replace("1.0.0", "2.0.0"),
        address.replace("expires=", "expires=9"),
        address[:-1] + ("0" if address[-1] != "0" else "1"),
        address.split("&signature")[0],
        address.replace("/org/acme/", "/org/other/"),
    ]

    for each in changed:
        refused = await ask(api, each)

        assert refused.status_code == 401, each
        assert refused.json()["type"] == "authentication_error"


async def test_an_address_is_valid_for_five_minutes(
    api: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = signed.time.time()
    opened = []
    for later in (signed.VALID_SECONDS - 2, signed.VALID_SECONDS + 2):
        monkeypatch.setattr(signed.time, "time", lambda later=later: present + later)
        opened.append((await ask(api, address)).status_code)

    assert opened == [200, 401]


async def test_revoking_a_token_invalidates_its_addresses(api: Any) -> None:
    await api("PUT", HARBOUR, json={"prompt": "Begin with Ahoy."})
    made = (await api("POST", "/org/acme/tokens", json={"name": "ci"})).json()
    told = (await api("GET", f"{HARBOUR}/bundle", key=made["token"])).json()
    await api("DELETE", f"/org/acme/tokens/{made['id']}")

    assert (await ask(api, told["download_url"])).status_code == 401


async def test_an_address_contains_neither_the_token_nor_its_hash(api: Any, address: str) -> None:
    assert api.keys["reader"] not in address
    assert sha256(api.keys["reader"]) not in address


async def test_behind_tls_the_address_is_the_public_one(api: Any, settings: Settings) -> None:
    object.__setattr__(settings, "public_url", "https://train.example.com")
    await api("PUT", HARBOUR, json={"prompt": "x"})

    told = (await api("GET", f"{HARBOUR}/bundle")).json()

    assert told["download_url"].startswith("https://train.example.com/api/v1/org/acme/")


async def test_a_deleted_version_is_gone_and_its_name_stays_reserved(api: Any) -> None:
    for version in ("1.0.0", "1.1.0"):
        await api("PUT", f"/org/acme/capabilities/harbour/{version}", json={"prompt": version})

    deleted = await api("DELETE", "/org/acme/capabilities/harbour/1.1.0", key="member")
    newest = (await api("GET", "/org/acme/capabilities/harbour")).json()
    versions = (await api("GET", "/org/acme/capabilities/harbour/versions")).json()
    listed = (await api("GET", "/org/acme/capabilities")).json()["capabilities"]
    twice = await api("DELETE", "/org/acme/capabilities/harbour/1.1.0")
    other = await api("PUT", "/org/acme/capabilities/harbour/1.1.0", json={"prompt": "new"})

    assert (deleted.status_code, deleted.json()["version"]) == (200, "1.1.0")
    assert newest["version"] == "1.0.0"
    assert versions == {"versions": ["1.0.0"]}
    assert [each["version"] for each in listed] == ["1.0.0"]
    assert twice.status_code == 404
    assert other.status_code == 409
    assert "existed with other content" in other.json()["detail"]


async def test_a_deleted_version_can_be_pushed_again_with_the_same_content(api: Any) -> None:
    first = (await api("PUT", HARBOUR, json={"prompt": "one"})).json()
    await api("DELETE", HARBOUR)

    again = await api("PUT", HARBOUR, json={"prompt": "one"})

    assert (again.status_code, again.json()) == (201, first)
    assert (await api("GET", HARBOUR)).status_code == 200


async def test_a_job_keeps_the_prompt_of_a_deleted_capability(api: Any) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "{}"})
    reference = {"name": "harbour", "version": "1.0.0"}
    job = await api.job(capability_ref=reference)
    await api("POST", f"{api.jobs}/{job['id']}/cancel")

    await api("DELETE", HARBOUR)
    again = await api("POST", f"{api.jobs}/{job['id']}/retry")
    new = await api.create(capability_ref=reference)

    assert again.json()["config"]["system_prompt"] == "{}"
    assert new.status_code == 422


@pytest.mark.parametrize(("kind", "name"), [("capabilities", "harbour"), ("datasets", "rows")])
async def test_capabilities_cannot_be_made_public_and_private_ones_stay_private(
    api: Any, kind: str, name: str
) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "one"})
    path = f"/org/acme/{kind}/{name}/visibility"

    private = await api("PATCH", path, key="member", json={"is_public": False})
    public = await api("PATCH", path, key="member", json={"is_public": True})
    number = await api("PATCH", path, key="member", json={"is_public": 0})
    unknown = await api("PATCH", path.replace(name, "nowhere"), json={"is_public": False})

    assert (private.status_code, private.json()) == (200, {"name": name, "is_public": False})
    assert public.status_code == 422
    assert "this server cannot make anything public" in public.json()["detail"]
    assert number.status_code == 422
    assert unknown.status_code == 404


async def test_models_cannot_be_made_public(api: Any) -> None:
    path = "/org/acme/models/mine/visibility"

    assert (await api("PATCH", path, json={"is_public": True})).status_code == 404


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["a", "b", "c"]),
        ("?sort_by=created_at&sort_dir=desc", ["a", "c", "b"]),
        ("?sort_by=created_at", ["b", "c", "a"]),
        ("?sort_dir=desc&limit=2", ["c", "b"]),
    ],
)
async def test_capabilities_are_sorted_as_requested(api: Any, query: str, names: list[str]) -> None:
    for name in "bca":
        await api("PUT", f"/org/acme/capabilities/{name}/1.0.0", json={"prompt": "x"})

    listed = (await api("GET", f"/org/acme/capabilities{query}")).json()["capabilities"]

    assert [each["name"] for each in listed] == names
