"""The upload of a dataset: one file, or one for each split, of any format."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fastapi import Request

from dreadnode_api.blob_store import BlobStore, Incoming, discard
from dreadnode_api.datasets.formats.compression import ENCODINGS
from dreadnode_api.datasets.formats.compression import SUFFIXES as COMPRESSIONS
from dreadnode_api.datasets.schemas import is_split_name
from dreadnode_api.errors import ApiError, Invalid, plain
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.multipart import HEADERS_BYTES, Part, bounded, content_type, parts
from dreadnode_api.uploads import UnreadableUpload, UploadReader

ONLY_SPLIT = "train"
READER = "dreadnode_api.datasets.formats"
MAX_SPLITS = 32

MEDIA_TYPES = {
    "application/x-ndjson": "jsonl",
    "application/json": "json",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


def media_type(kind: str) -> str:
    """Return the content type of a file of the format KIND."""
    if kind.endswith(".gz"):
        return "application/gzip"
    if kind.endswith(".zst"):
        return "application/zstd"
    return next(media for media, each in MEDIA_TYPES.items() if each == kind)


@dataclass(frozen=True, slots=True)
class UploadedSplit:
    """A split that was uploaded: its file, and its rows as JSONL, which may be the same file."""

    name: str
    format: str
    rows: int
    file: Incoming
    content: Incoming


@dataclass
class Receiver:
    """Receives the body of one push; its files are deleted with `stack` unless they are kept."""

    org_id: str
    store: BlobStore
    reader: UploadReader
    limit: int
    stack: AsyncExitStack
    _files: list[tuple[str, str, Incoming]] = field(default_factory=list)

    async def file(self, split: str, kind: str, chunks: AsyncIterator[bytes]) -> None:
        """Receive the file of a split."""
        left = self.limit - sum(file.bytes for _, _, file in self._files)
        file = await self.stack.enter_async_context(self.store.receiving(chunks, left))
        self._files.append((split, kind, file))

    async def part(self, part: Part) -> None:
        """Receive a part; its name is that of the split."""
        if not is_split_name(part.name):
            raise Invalid(
                f"`{plain(part.name[:100])}` cannot be the name of a split; use at most 64 "
                "lower-case letters, digits, `.`, `_` and `-`"
            )
        if any(part.name == split for split, *_ in self._files):
            raise Invalid(f"The split `{part.name}` has two files; a split is one file")
        if len(self._files) == MAX_SPLITS:
            raise Invalid(f"A dataset has at most {MAX_SPLITS} splits")
        try:
            await self.file(part.name, _kind(part), part.data)
        except Invalid as refused:
            raise Invalid(f"Split `{part.name}`: {refused.detail}") from None

    async def splits(self) -> list[UploadedSplit]:
        """Return every split of the body, with its rows checked and converted to JSONL.

        Raises:
            Invalid: the body has no file, or the rows of one are refused.
        """
        if not self._files:
            raise Invalid("The body has no file; send one part for each split")
        found: list[UploadedSplit] = []
        left = self.limit
        for name, kind, file in self._files:
            try:
                rows, content = await self._read(kind, file, left)
            except UnreadableUpload as refused:
                prefix = f"Split `{name}`: " if len(self._files) > 1 else ""
                raise Invalid(f"{prefix}{refused}") from None
            left -= content.bytes
            found.append(UploadedSplit(name, kind, rows, file, content))
        return found

    async def _read(self, kind: str, file: Incoming, limit: int) -> tuple[int, Incoming]:
        """Return how many rows FILE has, and a file of them as JSONL."""
        target = self.stack.enter_context(self.store.temporary_file())
        paths = (str(file.file.absolute()), str(target.absolute()))
        made = await self.reader.read(
            self.org_id, READER, kind, *paths, str(limit), output_bytes=limit + 1
        )
        if kind == "jsonl":
            return made["rows"], file
        return made["rows"], self.store.incoming(target, made["sha256"], made["bytes"])


@asynccontextmanager
async def received(
    request: Request, org_id: str, store: BlobStore, reader: UploadReader, limit: int
) -> AsyncIterator[list[UploadedSplit]]:
    """Receive the splits in the body of REQUEST; their files are deleted unless they are kept.

    Args:
        request: One file, whose content type is its format and which becomes the split `train`;
            or multipart/form-data, with a part for each split.
        org_id: The organization whose turn in the queue of uploads is used.
        store: Where the files are stored.
        reader: Checks the files and converts them to JSONL.
        limit: The bytes of all files together, and of all rows together as JSONL.

    Raises:
        Malformed: The body is larger or cannot be parsed.
        Invalid: It is not a dataset; the message names the split where there are several.
    """
    kind, boundary = content_type(request)
    async with AsyncExitStack() as stack:
        receiver = Receiver(org_id, store, reader, limit, stack)
        if kind != "multipart/form-data":
            await receiver.file(ONLY_SPLIT, _kind_of_body(kind, request), request.stream())
        else:
            body = request.stream()
            try:
                async for part in parts(bounded(body, limit + HEADERS_BYTES), boundary):
                    await receiver.part(part)
            except ApiError:
                await discard(body, limit)
                raise
        # A client that has hung up sends the push again; two of them would take twice the time.
        yield await while_connected(request, receiver.splits())


def _kind_of_body(media_type: str, request: Request) -> str:
    """Return the format of a body that is one file: by its content type and encoding."""
    kind = MEDIA_TYPES.get(media_type, "jsonl")
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return kind
    if encoding not in ENCODINGS or kind == "parquet":
        raise Invalid(
            f"The `Content-Encoding` `{plain(encoding[:40])}` is not supported; use `gzip` or "
            "`zstd` around JSONL, JSON or CSV"
        )
    return f"{kind}.{ENCODINGS[encoding]}"


def _kind(part: Part) -> str:
    """Return the format of PART: by its file name, else by its content type, else JSONL."""
    name = PurePosixPath(part.filename.lower())
    compression = COMPRESSIONS.get(name.suffix)
    suffix = PurePosixPath(name.stem).suffix if compression else name.suffix
    if suffix in SUFFIXES and not (compression and SUFFIXES[suffix] == "parquet"):
        return f"{SUFFIXES[suffix]}.{compression}" if compression else SUFFIXES[suffix]
    if suffix or compression:
        known = ", ".join(f"`{each}`" for each in SUFFIXES)
        raise Invalid(
            f"The file name `{plain(part.filename[:100])}` must end in one of {known}, "
            "or in `.gz` or `.zst` behind one of the text formats"
        )
    return MEDIA_TYPES.get(part.content_type.lower(), "jsonl")
