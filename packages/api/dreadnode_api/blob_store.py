"""The blob store: files named by the SHA-256 of their bytes, written once and whole."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from dreadnode_api.errors import ApiError, Malformed

_INCOMING = ".incoming-"
_ASIDE = ".let-go-"


@dataclass(frozen=True, slots=True)
class Incoming:
    """Bytes that have arrived whole and are not yet kept."""

    sha256: str
    bytes: int
    file: Path
    _target: Path

    def keep(self) -> None:
        """Put the bytes where their digest finds them; without this call they vanish."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self.file.replace(self._target)


class BlobStore:
    """Blobs in a folder. Equal bytes are kept once; nothing that can be seen is half-written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Return where the blob of this digest lies."""
        return self._folder / sha256[:2] / sha256

    def let_go(self, sha256: str, before: float) -> bool:
        """Delete a blob that no row names, and return whether it is gone.

        Args:
            sha256: its digest.
            before: the Unix time since when it must not have been sent again. Whoever sends it
                writes the file before the row that names it can be seen, so a file as young as that
                may be named at any moment.
        """
        path = self.path(sha256)
        aside = path.with_name(f"{_ASIDE}{sha256}")
        try:
            # Whatever is sent from here on makes a file of its own and is not touched.
            path.rename(aside)
        except FileNotFoundError:
            return False
        if aside.stat().st_mtime >= before:
            aside.replace(path)
            return False
        aside.unlink()
        return True

    def sweep(self, before: float) -> int:
        """Delete what broken uploads have left since before this Unix time; return how many."""
        for aside in self._folder.glob(f"*/{_ASIDE}*"):
            # A process ended between the two halves of letting go; the next one decides anew.
            aside.replace(self.path(aside.name.removeprefix(_ASIDE)))
        gone = 0
        for partial in self._folder.glob(f"{_INCOMING}*"):
            with suppress(FileNotFoundError):
                if partial.stat().st_mtime < before:
                    if partial.is_dir():
                        shutil.rmtree(partial)
                    else:
                        partial.unlink()
                    gone += 1
        return gone

    @asynccontextmanager
    async def receiving(
        self,
        chunks: AsyncIterator[bytes],
        limit: int,
        watch: Callable[[bytes], None] | None = None,
    ) -> AsyncIterator[Incoming]:
        """Write the bytes of `chunks` to the disk and yield them for the decision to keep them.

        Args:
            chunks: the bytes, in pieces.
            limit: the largest number of bytes taken.
            watch: is shown each piece, and may raise to refuse the whole.

        Raises:
            Malformed: there are more than `limit` bytes.
        """
        with self.fresh() as path:
            with path.open("wb") as file:
                sha256, size = await _copy(chunks, file, limit, watch)
                await to_thread.run_sync(_sync, file)
            yield self.incoming(path, sha256, size)

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Yield an empty file on the store's own disk, which vanishes unless it is kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_INCOMING)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108

    @contextmanager
    def fresh_folder(self) -> Iterator[Path]:
        """Yield an empty folder on the store's own disk, which vanishes with what is not kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self._folder, prefix=_INCOMING, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

    def written(self, file: Path) -> Incoming:
        """Return a whole file of a fresh folder, put on the disk, for the decision to keep it."""
        with file.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
            os.fsync(whole.fileno())
            return self.incoming(file, digest, whole.tell())

    def incoming(self, fresh: Path, sha256: str, size: int) -> Incoming:
        """Return the file `fresh`, whose bytes are on the disk, for the decision to keep it."""
        return Incoming(sha256, size, fresh, self.path(sha256))


async def _copy(
    chunks: AsyncIterator[bytes],
    file: BinaryIO,
    limit: int,
    watch: Callable[[bytes], None] | None,
) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise Malformed(f"The body is larger than the {limit:,} bytes that are taken here")
            if watch is not None:
                watch(chunk)
            digest.update(chunk)
            await to_thread.run_sync(file.write, chunk)
    except ApiError:
        # A client that is still sending reads no answer, so let it finish, within bounds.
        async for chunk in chunks:
            size += len(chunk)
            if size > 2 * limit:
                break
        raise
    return digest.hexdigest(), size


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
