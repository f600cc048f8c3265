"""The blob store: files named by the SHA-256 of their bytes, written once and atomically."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from dreadnode_api.errors import Malformed

YOUNG_SECONDS = 60.0
_INCOMING = ".incoming-"
# A name on the disk, which older versions wrote too.
_DELETING = ".let-go-"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A complete file on the store's disk that is deleted unless it is kept."""

    sha256: str
    bytes: int
    file: Path
    _target: Path

    def keep(self) -> None:
        """Move the file to the path of its digest."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        # Written long ago if its checks were slow; `delete_unused` must see it as young.
        os.utime(self.file)
        self.file.replace(self._target)


class BlobStore:
    """Blobs in a folder. Equal bytes are stored once; a visible file is always complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Return the path of the blob with this digest."""
        return self._folder / sha256[:2] / sha256

    def delete_unused(self, sha256: str, before: float) -> bool:
        """Delete a blob that no row refers to, and return whether it was deleted.

        Args:
            sha256: its digest.
            before: a blob written at or after this Unix time stays. An upload writes the file
                before the row that refers to it is visible, so a file that young may get a row at
                any moment.
        """
        path = self.path(sha256)
        renamed = path.with_name(f"{_DELETING}{sha256}")
        try:
            # An upload from here on writes a file of its own, which is not touched.
            path.rename(renamed)
        except FileNotFoundError:
            return False
        if renamed.stat().st_mtime >= before:
            renamed.replace(path)
            return False
        renamed.unlink()
        return True

    def delete_all_unused(self, digests: Iterable[str]) -> None:
        """Delete blobs that no row refers to; a very young one is left to the cleanup.

        An upload of the same bytes at this moment may be about to write its row.
        """
        before = time.time() - YOUNG_SECONDS
        for sha256 in digests:
            self.delete_unused(sha256, before)

    def written_before(self, before: float) -> list[str]:
        """Return the digests of the blobs that were written before this Unix time."""
        found = []
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(FileNotFoundError):
                if not path.name.startswith(".") and path.stat().st_mtime < before:
                    found.append(path.name)
        return sorted(found)

    def delete_partial(self, before: float) -> int:
        """Delete what broken uploads left before this Unix time; return how many."""
        for renamed in self._folder.glob(f"*/{_DELETING}*"):
            # A process ended during `delete_unused`; the next cleanup decides again.
            renamed.replace(self.path(renamed.name.removeprefix(_DELETING)))
        deleted = 0
        for partial in self._folder.glob(f"{_INCOMING}*"):
            with suppress(FileNotFoundError):
                if partial.stat().st_mtime < before:
                    if partial.is_dir():
                        shutil.rmtree(partial)
                    else:
                        partial.unlink()
                    deleted += 1
        return deleted

    @asynccontextmanager
    async def receiving(self, chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[Incoming]:
        """Write the bytes of CHUNKS to the disk and yield them as a file that may be kept.

        Raises:
            Malformed: there are more than LIMIT bytes.
        """
        with self.temporary_file() as path:
            with path.open("wb") as file:
                sha256, size = await _copy(chunks, file, limit)
                await to_thread.run_sync(_sync, file)
            yield self.incoming(path, sha256, size)

    @contextmanager
    def temporary_file(self) -> Iterator[Path]:
        """Yield an empty file on the store's disk that is deleted unless it is kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_INCOMING)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Yield an empty folder on the store's disk, deleted with all that is not kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self._folder, prefix=_INCOMING, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

    def hashed(self, file: Path) -> Incoming:
        """Return a complete file of a temporary folder, synced to the disk, as one to keep."""
        with file.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
            os.fsync(whole.fileno())
            return self.incoming(file, digest, whole.tell())

    def incoming(self, file: Path, sha256: str, size: int) -> Incoming:
        """Return FILE, whose bytes are synced to the disk, as one to keep."""
        return Incoming(sha256, size, file, self.path(sha256))


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO, limit: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            await discard(chunks, limit)
            raise Malformed(f"The body is larger than the limit of {limit:,} bytes")
        digest.update(chunk)
        await to_thread.run_sync(file.write, chunk)
    return digest.hexdigest(), size


async def discard(chunks: AsyncIterator[bytes], limit: int) -> None:
    """Read at most LIMIT more bytes of CHUNKS: a client reads no response while it sends."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            break


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
