"""Capabilities: pushed as a prompt or as an archive, never changed, and given to jobs."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.capabilities import registry as registry_routes
from dreadnode_api.capabilities.archive import (
    MAX_MEMBERS,
    MAX_UNPACKED_BYTES,
    BadArchive,
    entry_prompt,
    without_front_matter,
)
from dreadnode_api.settings import Settings

HARBOUR = "/org/acme/capabilities/harbour/1.0.0"
AGENT = b"---\nname: desk\n---\nBegin with Ahoy.\n"


def archive(files: Mapping[str, bytes], *strange: tarfile.TarInfo) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in strange:
            tar.addfile(info)
    return gzip.compress(raw.getvalue(), mtime=0)


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def image(config: bytes, *layers: bytes, kind: str = "capability") -> dict[str, Any]:
    def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    return {
        "schemaVersion": 2,
        "config": descriptor(config, "application/vnd.dreadnode.config.v1+json"),
        "layers": [
            descriptor(each, "application/vnd.dreadnode.layer.v1.tar+gzip") for each in layers
        ],
        "annotations": {"io.dreadnode.type": kind, "io.dreadnode.name": "acme/harbour"},
    }


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_capability_bytes": 100_000})


class Registry:
    """What a client of version 2 does when it pushes."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def __call__(self, method: str, path: str, key: str = "member", **more: Any) -> Any:
        pair = f"__token__:{self.api.keys.get(key, key)}".encode()
        headers = {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        return await self.api(method, path, key=None, headers=headers, **more)

    async def send(self, content: bytes) -> Any:
        started = await self("POST", "/acme/harbour/blobs/uploads/")
        assert started.status_code == 202, started.text
        where = started.headers["location"].removeprefix("/api/v1")
        return await self("PUT", f"{where}?digest={digest(content)}", content=content)

    async def push(self, files: Mapping[str, bytes], **manifest: Any) -> Any:
        told = {"capability_manifest": {"description": "The harbour desk", **manifest}}
        config, layer = json.dumps(told).encode(), archive(files)
        for each in (config, layer):
            assert (await self.send(each)).status_code == 201
        return await self("PUT", "/acme/harbour/manifests/1.0.0", json=image(config, layer))


@pytest.fixture
def registry(api: Any) -> Registry:
    return Registry(api)


async def test_a_job_is_trained_with_its_pushed_prompt(api: Any) -> None:
    await api.push()
    pushed = await api("PUT", HARBOUR, key="member", json={"prompt": "{}", "description": "Desk"})

    job = await api.job(capability_ref={"name": "harbour", "version": "1.0.0"})

    assert pushed.status_code == 201
    assert job["config"]["system_prompt"] == "{}"
    assert job["capability"]["name"] == "harbour"
    assert job["capability"]["artifact_id"] == pushed.json()["id"]
    assert job["artifacts"]["capability"] == "acme/harbour@1.0.0"


async def test_the_sandbox_reads_the_prompt_in_the_rl_context(api: Any) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "{}"})
    job = await api.job(capability_ref={"name": "harbour", "version": "1.0.0"})
    _, key = await api.start()

    context = await api("GET", f"{api.jobs}/{job['id']}/rl-context", key=key)

    assert context.json()["capability_entry_prompt"] == "{}"


async def test_a_retried_job_keeps_its_capability(api: Any) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "{}"})
    job = await api.job(capability_ref={"name": "harbour", "version": "1.0.0"})
    await api("POST", f"{api.jobs}/{job['id']}/cancel")

    again = (await api("POST", f"{api.jobs}/{job['id']}/retry")).json()

    assert again["capability"] == job["capability"]
    assert again["artifacts"] == {"capability": "acme/harbour@1.0.0"}


async def test_a_version_never_changes(api: Any) -> None:
    first = await api("PUT", HARBOUR, json={"prompt": "one"})
    same = await api("PUT", HARBOUR, json={"prompt": "one"})
    other = await api("PUT", HARBOUR, json={"prompt": "two"})

    assert (first.status_code, same.status_code, other.status_code) == (201, 200, 409)
    assert (await api("GET", HARBOUR)).json()["prompt"] == "one"


async def test_an_old_client_that_must_name_a_capability_may_name_none(api: Any) -> None:
    await api.push()

    job = await api.job(capability_ref={"name": "none", "version": "0.0.0"})

    assert job["capability"]["name"] == "none"
    assert "system_prompt" not in job["config"]


async def test_a_job_with_an_unknown_capability_is_refused_with_the_existing_versions(
    api: Any,
) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "one"})

    refused = await api.create(capability_ref={"name": "harbour", "version": "2.0.0"})

    assert refused.status_code == 422
    assert "`1.0.0`" in refused.json()["detail"]
    assert refused.json()["errors"][0]["loc"] == ["body", "capability_ref"]
    assert await api.count() == 0


async def test_a_job_on_plain_text_refuses_a_capability(
    api: Any,
) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "one"})

    refused = await api.create(
        capability_ref={"name": "harbour", "version": "1.0.0"}, config={"format": "text"}
    )

    assert refused.status_code == 422
    assert "is for conversations, and the `format` is `text`" in refused.json()["detail"]
    assert await api.count() == 0


async def test_a_job_with_two_system_prompts_is_refused(api: Any) -> None:
    await api.push()
    await api("PUT", HARBOUR, json={"prompt": "one"})

    refused = await api.create(
        capability_ref={"name": "harbour", "version": "1.0.0"}, config={"system_prompt": "two"}
    )

    assert refused.status_code == 422
    assert await api.count() == 0


async def test_capabilities_are_listed_with_their_newest_version(api: Any) -> None:
    for version in ("1.0.0", "1.1.0"):
        await api("PUT", f"/org/acme/capabilities/harbour/{version}", json={"prompt": version})
    await api("PUT", "/org/acme/capabilities/pilot/1.0.0", json={"prompt": "p"})

    listed = (await api("GET", "/org/acme/capabilities?search=harb")).json()
    versions = (await api("GET", "/org/acme/capabilities/harbour/versions")).json()
    newest = (await api("GET", "/org/acme/capabilities/harbour")).json()

    assert [(each["name"], each["version"]) for each in listed["capabilities"]] == [
        ("harbour", "1.1.0")
    ]
    assert listed["total"] == 1
    assert versions == {"versions": ["1.1.0", "1.0.0"]}
    assert newest["prompt"] == "1.1.0"


async def test_a_description_is_returned_without_markup(api: Any) -> None:
    await api("PUT", HARBOUR, json={"prompt": "one", "description": "see [/path]"})

    listed = (await api("GET", "/org/acme/capabilities")).json()

    assert listed["capabilities"][0]["description"] == "see (/path)"


async def test_an_archive_is_pushed_like_clients_of_version_2_do(
    api: Any, registry: Registry
) -> None:
    before = await registry("GET", HARBOUR, key="reader")
    files = {"agents/b.md": b"never read", "agents/desk.md": AGENT, "capability.yaml": b"name: x"}

    pushed = await registry.push(files, entry_agent="desk")
    found = (await registry("GET", HARBOUR, key="reader")).json()

    assert before.status_code == 404
    assert pushed.status_code == 201, pushed.text
    assert found["prompt"] == "Begin with Ahoy."
    assert found["entry_agent"] == "desk"
    assert found["description"] == "The harbour desk"
    assert found["artifact_sha256"] == digest(archive(files)).removeprefix("sha256:")
    assert (await registry.push(files, entry_agent="desk")).status_code == 201
    assert (await registry.push({"agents/desk.md": b"other"})).status_code == 409


async def test_a_pushed_capability_can_be_pulled(api: Any, registry: Registry) -> None:
    pushed = await registry.push({"agents/desk.md": AGENT})

    manifest = await registry("GET", "/acme/harbour/manifests/1.0.0", key="reader")
    layer = manifest.json()["layers"][0]["digest"]
    blob = await registry("GET", f"/acme/blobs/{layer}", key="reader")

    assert manifest.headers["docker-content-digest"] == pushed.headers["docker-content-digest"]
    assert blob.content == archive({"agents/desk.md": AGENT})
    assert (await registry("HEAD", f"/acme/blobs/{layer}")).status_code == 200


async def test_another_organization_cannot_find_a_blob_by_its_digest(
    api: Any, registry: Registry
) -> None:
    content = b"a secret prompt"
    assert (await registry.send(content)).status_code == 201

    theirs = await registry("GET", f"/other/blobs/{digest(content)}", key="stranger")
    stolen = await registry(
        "PUT",
        "/other/harbour/manifests/1.0.0",
        key="stranger",
        json=image(content, archive({"agents/a.md": b"x"})),
    )

    assert theirs.status_code == 404
    assert stolen.status_code == 400


async def test_a_blob_with_another_digest_is_refused_and_not_kept(
    api: Any, registry: Registry
) -> None:
    started = await registry("POST", "/acme/harbour/blobs/uploads/")
    where = started.headers["location"].removeprefix("/api/v1")

    refused = await registry("PUT", f"{where}?digest={digest(b'one')}", content=b"two")

    assert refused.status_code == 400
    assert (await registry("HEAD", f"/acme/blobs/{digest(b'two')}")).status_code == 404


async def test_a_blob_above_the_limit_is_refused(api: Any, registry: Registry) -> None:
    content = b"x" * (api.settings.max_capability_bytes + 1)

    refused = await registry.send(content)

    assert refused.status_code == 400
    assert "larger than" in refused.json()["detail"]


@pytest.mark.parametrize("kind", ["dataset", "model", "environment", ""])
async def test_datasets_and_models_are_refused_with_the_command_to_use_instead(
    api: Any, registry: Registry, kind: str
) -> None:
    refused = await registry("PUT", "/acme/rows/manifests/1.0.0", json=image(b"{}", kind=kind))

    assert refused.status_code == 400
    assert "`dn dataset push`" in refused.json()["detail"]


async def test_a_manifest_with_missing_blobs_is_refused(api: Any, registry: Registry) -> None:
    refused = await registry(
        "PUT", "/acme/harbour/manifests/1.0.0", json=image(b"{}", archive({"a": b""}))
    )

    assert refused.status_code == 400
    assert "was not sent" in refused.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"config": 1}', b"\xff"])
async def test_an_unreadable_manifest_is_refused(api: Any, registry: Registry, body: bytes) -> None:
    refused = await registry("PUT", "/acme/harbour/manifests/1.0.0", content=body)

    assert refused.status_code == 400


@pytest.mark.parametrize("config", [b"[]", b"{", b'{"tools": ["\\u0000"]}', b"[" * 100_000])
async def test_an_invalid_config_is_refused(api: Any, registry: Registry, config: bytes) -> None:
    layer = archive({"agents/a.md": b"x"})
    for each in (config, layer):
        await registry.send(each)

    refused = await registry("PUT", "/acme/harbour/manifests/1.0.0", json=image(config, layer))

    assert refused.status_code == 400
    assert (await registry("GET", HARBOUR)).status_code == 404


async def test_a_capability_without_a_prompt_is_stored_and_refused_by_a_job(
    api: Any, registry: Registry
) -> None:
    await api.push()
    assert (await registry.push({"tools/a.py": b"pass"})).status_code == 201

    refused = await api.create(capability_ref={"name": "harbour", "version": "1.0.0"})

    assert refused.status_code == 422
    assert "no agent prompt" in refused.json()["detail"]


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"not an archive",
        lambda: b"",
        lambda: gzip.compress(b"not a tar"),
        lambda: archive({"agents/a.md": b"x"})[:-20],
        lambda: archive({"../a": b""}),
        lambda: archive({"/etc/passwd": b""}),
        lambda: archive({"agents\\a.md": b""}),
        lambda: archive({}, link("agents/a.md", tarfile.SYMTYPE)),
        lambda: archive({}, link("agents/a.md", tarfile.LNKTYPE)),
        lambda: archive({}, link("agents/a.md", tarfile.CHRTYPE)),
        lambda: archive({}, link("agents/a.md", tarfile.FIFOTYPE)),
        lambda: archive({}, link("agents/a.md", tarfile.GNUTYPE_SPARSE)),
        lambda: archive({}, link("agents/a.md", tarfile.CONTTYPE)),
        lambda: archive({"agents/a.md": b"\xff\xfe"}),
        lambda: archive({"agents/a.md": b"x" * 100_001}),
        lambda: archive({"agents/a.md": b"a\0b"}),
        lambda: archive({"x": bytes(MAX_UNPACKED_BYTES + 1)}),
        lambda: archive({str(n): b"" for n in range(MAX_MEMBERS + 1)}),
    ],
)
def test_a_broken_unsafe_or_oversized_archive_is_refused(
    content: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content())

    with pytest.raises(BadArchive):
        entry_prompt(path, None)


@pytest.mark.parametrize(
    ("entry", "prompt"), [(None, "first"), ("b", "second"), ("c", "third"), ("gone", "first")]
)
def test_the_prompt_is_the_named_agents_or_else_the_first_agents(
    entry: str | None, prompt: str, tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    files = {"agents/c.txt": b"third", "agents/b.md": b"second", "agents/a.md": b"first"}
    path.write_bytes(archive(files))

    found = entry_prompt(path, entry)

    assert found[1] == prompt


def test_only_one_prompt_is_held_in_memory_with_many_agents(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    size = 100_000
    path.write_bytes(archive({f"agents/{n:03}.md": b"x" * size for n in range(300)}))

    tracemalloc.start()
    agent, prompt = entry_prompt(path, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (agent, len(prompt or "")) == ("000", size)
    assert peak < 20 * size


async def test_a_slow_archive_is_refused_while_others_are_served(
    registry: Registry, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_routes, "ARCHIVE_SECONDS", 0.01)

    pushed = await registry.push({"agents/a.md": b"Be brief"})

    assert pushed.status_code == 400
    assert "took longer than" in pushed.json()["detail"]
    assert (await api("GET", "/user")).status_code == 200


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("plain", "plain"),
        ("---\na: 1\n---\nbody --- more", "body --- more"),
        ("---\r\na: 1\r\n---\r\nbody", "body"),
        ("---\nnever closed", "---\nnever closed"),
    ],
)
def test_front_matter_is_not_part_of_a_prompt(text: str, prompt: str) -> None:
    assert without_front_matter(text) == prompt
