"""Blobs that pushes have left behind: let go after a while, and never one that something names."""

import asyncio
import gzip
import hashlib
import io
import os
import tarfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api import blob_references
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.maintenance.cleanup import Cleanup
from dreadnode_api.models.auth import BrowserSession, Token
from dreadnode_api.models.base import Table, now
from dreadnode_api.models.capabilities import CapabilityVersion, RegistryBlob
from dreadnode_api.models.jobs import Job
from sqlalchemy import update

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CONFIG = b'{"capability_manifest": {}}'
HARBOUR = "/org/acme/capabilities/harbour/1.0.0"
OLD = 1_000_000.0  # 1970


def archive(prompt: bytes = b"Begin with Ahoy.") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("agents/desk.md")
        info.size = len(prompt)
        tar.addfile(info, io.BytesIO(prompt))
    return gzip.compress(raw.getvalue(), mtime=0)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Registry:
    """A client that pushes, and a dispatcher that tidies up."""

    api: Any

    @property
    def store(self) -> BlobStore:
        return BlobStore(self.api.settings.data_dir / "blobs")

    async def send(self, content: bytes, org: str = "acme", key: str = "admin") -> None:
        where = f"/{org}/harbour/blobs/uploads/{'0' * 32}?digest=sha256:{digest(content)}"
        sent = await self.api("PUT", where, key=key, content=content)
        assert sent.status_code == 201, sent.text

    async def name(self, layer: bytes, version: str = "1.0.0") -> Any:
        config, layers = [
            {"mediaType": "x/y", "digest": f"sha256:{digest(each)}", "size": len(each)}
            for each in (CONFIG, layer)
        ]
        image = {
            "config": config,
            "layers": [layers],
            "annotations": {"io.dreadnode.type": "capability"},
        }
        return await self.api("PUT", f"/acme/harbour/manifests/{version}", json=image)

    async def push(self, layer: bytes, version: str = "1.0.0") -> Any:
        for each in (CONFIG, layer):
            await self.send(each)
        return await self.name(layer, version)

    async def age(self, *, files: bool = True) -> None:
        """Let a thousand days pass over everything that is there."""
        past = now() - timedelta(days=1000)
        async with self.api.database.writing() as session:
            await session.execute(update(RegistryBlob).values(used_at=past))
            await session.execute(
                update(CapabilityVersion)
                .where(CapabilityVersion.deleted_at.is_not(None))
                .values(deleted_at=past)
            )
        for path in self.files() if files else ():
            os.utime(path, (OLD, OLD))

    def files(self) -> list[Path]:
        folder = self.api.settings.data_dir / "blobs"
        return [path for path in folder.rglob("*") if path.is_file()]

    async def clean_up(self, days: float = 1.0) -> int:
        cleanup = Cleanup(
            self.api.settings.model_copy(update={"upload_days": days}), self.api.database, None
        )
        return (await cleanup.once()).get("unused blobs", 0)

    async def has(self, content: bytes) -> bool:
        found = await self.api("HEAD", f"/acme/blobs/sha256:{digest(content)}")
        return bool(found.status_code == 200)


@pytest.fixture
def registry(api: Any) -> Registry:
    return Registry(api)


@one_database
async def test_an_unreferenced_blob_is_deleted_after_a_while_and_not_before(
    registry: Registry,
) -> None:
    await registry.send(b"left behind")

    early = await registry.clean_up()
    await registry.age()
    never = await registry.clean_up(days=0)
    late = await registry.clean_up()

    assert (early, never, late) == (0, 0, 1)
    assert not await registry.has(b"left behind")
    assert registry.files() == []


async def test_a_referenced_blob_is_kept_at_any_age(registry: Registry) -> None:
    layer = archive()
    await registry.push(layer)
    await registry.age()

    assert await registry.clean_up() == 0
    assert await registry.has(CONFIG)
    assert await registry.has(layer)
    manifest = await registry.api("GET", "/acme/harbour/manifests/1.0.0")
    assert manifest.json()["layers"][0]["digest"] == f"sha256:{digest(layer)}"


async def test_bytes_that_a_dataset_or_a_job_uses_too_are_kept(
    registry: Registry,
) -> None:
    api, rows, file = registry.api, b'{"prompt": "a", "response": "b"}\n', b"# adapter"
    await api.push(body=rows)
    job = await api.job()
    _, key = await api.start()
    await api("PUT", f"{api.jobs}/{job['id']}/files/a.md", key=key, content=file)
    for each in (rows, file, b"alone"):
        await registry.send(each)
    await registry.age()

    gone = await registry.clean_up()

    assert gone == 1
    assert (await api("GET", "/org/acme/datasets/rows/1.0.0/content")).content == rows
    assert (await api("GET", f"{api.jobs}/{job['id']}/files/a.md")).content == file


async def test_a_blob_of_two_organizations_is_kept_while_one_uses_it(
    registry: Registry,
) -> None:
    await registry.send(b"shared")
    await registry.age()
    await registry.send(b"shared", org="other", key="stranger")
    for path in registry.files():
        os.utime(path, (OLD, OLD))

    assert await registry.clean_up() == 0
    assert not await registry.has(b"shared")
    theirs = await registry.api("GET", f"/other/blobs/sha256:{digest(b'shared')}", key="stranger")
    assert theirs.content == b"shared"


@one_database
async def test_a_push_that_finds_its_blobs_stored_keeps_them_until_its_manifest(
    registry: Registry,
) -> None:
    layer = archive()
    for each in (CONFIG, layer):
        await registry.send(each)
    await registry.age()

    found = [await registry.has(each) for each in (CONFIG, layer)]
    gone = await registry.clean_up()
    named = await registry.name(layer)

    assert found == [True, True]
    assert gone == 0
    assert named.status_code == 201, named.text


async def test_a_blob_sent_again_starts_a_new_waiting_time(registry: Registry) -> None:
    await registry.send(b"again")
    await registry.age()
    await asyncio.gather(*(registry.send(b"again") for _ in range(3)))
    await asyncio.gather(*(registry.send(b"at once") for _ in range(3)))

    assert await registry.clean_up() == 0
    assert await registry.has(b"again")
    assert await registry.has(b"at once")


@one_database
async def test_a_push_interrupted_for_days_is_asked_to_send_its_blobs_again(
    registry: Registry,
) -> None:
    layer = archive()
    for each in (CONFIG, layer):
        await registry.send(each)
    await registry.age()
    await registry.clean_up()

    refused = await registry.name(layer)
    again = await registry.push(layer)

    assert refused.status_code == 400
    assert "send it first" in refused.json()["detail"]
    assert again.status_code == 201


async def test_a_concurrent_manifest_and_cleanup_never_leave_half_a_capability(
    registry: Registry,
) -> None:
    ends = set()
    for number in range(6):
        layer, version = archive(b"%d" % number), f"1.{number}.0"
        await registry.send(CONFIG)
        await registry.send(layer)
        await registry.age()

        named, _ = await asyncio.gather(registry.name(layer, version), registry.clean_up())

        ends.add(named.status_code)
        if named.status_code == 201:
            archived = await registry.api(
                "GET", f"/org/acme/capabilities/harbour/{version}/archive"
            )
            assert archived.content == layer
    assert ends <= {201, 400}


def test_a_blob_sent_again_during_its_deletion_is_kept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    path = store.path("ab" * 32)
    path.parent.mkdir()
    path.write_bytes(b"just now")

    kept = store.delete_unused("ab" * 32, time.time() - 60)
    gone = store.delete_unused("ab" * 32, time.time() + 60)

    assert (kept, gone) == (False, True)
    assert list(tmp_path.rglob("*.*")) == []
    assert not path.exists()


@one_database
async def test_a_row_without_its_file_counts_as_not_sent(registry: Registry) -> None:
    layer = archive()
    await registry.send(CONFIG)
    await registry.send(layer)
    registry.store.path(digest(layer)).unlink()

    named = await registry.name(layer)

    assert not await registry.has(layer)
    assert named.status_code == 400
    assert (await registry.api("GET", HARBOUR)).status_code == 404


@one_database
async def test_leftovers_of_broken_uploads_and_cleanups_are_deleted(
    registry: Registry,
) -> None:
    await registry.send(b"half let go")
    folder = registry.api.settings.data_dir / "blobs"
    path = registry.store.path(digest(b"half let go"))
    path.rename(path.with_name(f".let-go-{path.name}"))
    (folder / ".incoming-old").write_bytes(b"x")
    os.utime(folder / ".incoming-old", (OLD, OLD))
    (folder / ".incoming-new").write_bytes(b"x")

    await registry.clean_up()

    assert await registry.has(b"half let go")
    assert [each.name for each in folder.glob(".incoming-*")] == [".incoming-new"]


async def test_the_blobs_of_a_deleted_version_are_deleted_after_a_while(registry: Registry) -> None:
    layer = archive()
    await registry.push(layer)
    await registry.api("DELETE", HARBOUR)

    early = await registry.clean_up()
    await registry.age()
    late = await registry.clean_up()

    assert (early, late) == (0, 3)  # The config, the layer and the manifest.
    assert registry.files() == []
    assert (await registry.push(archive(b"other"))).status_code == 409
    assert (await registry.push(layer)).status_code == 201


@one_database
async def test_a_capability_pushed_before_configs_were_stored_keeps_all_blobs(
    registry: Registry,
) -> None:
    await registry.push(archive())
    await registry.send(b"perhaps its config")
    async with registry.api.database.writing() as session:
        await session.execute(update(CapabilityVersion).values(config_sha256=None))
    await registry.age()

    assert await registry.clean_up() == 0


def test_every_column_that_may_name_a_blob_is_checked_before_a_deletion() -> None:
    others = {
        Token.__table__.c.sha256,
        BrowserSession.__table__.c.sha256,
        Job.__table__.c.request_sha256,
    }
    columns = {
        column
        for table in Table.metadata.tables.values()
        for column in table.c
        if column.name.endswith("sha256")
    }
    looked_at = {column.property.columns[0] for column, _ in blob_references.COLUMNS}

    assert columns - others == looked_at


async def test_a_file_without_a_row_is_deleted_and_files_of_rows_are_kept(
    registry: Any, api: Any
) -> None:
    await api.push()
    store = api.app.state.store
    folder = api.settings.data_dir / "blobs"
    named = {path.name for path in folder.glob("??/*")}
    # A process that ended between writing the file and committing its row left this.
    orphan, young = "ab" * 32, "cd" * 32
    for sha256 in (orphan, young):
        store.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        store.path(sha256).write_bytes(b"x")
    await registry.age()
    os.utime(store.path(young))

    deleted = await registry.clean_up()

    left = {path.name for path in folder.glob("??/*")}
    assert deleted == 1
    assert left == named | {young}
