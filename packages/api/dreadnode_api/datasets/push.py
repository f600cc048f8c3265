"""What arrives of a dataset: one file, or one for each split, of any format, as files and JSONL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fastapi import Request

from dreadnode_api.blob_store import BlobStore, Incoming
from dreadnode_api.datasets.convert import Converter
from dreadnode_api.datasets.rows import RowCounter
from dreadnode_api.datasets.schemas import is_split_name
from dreadnode_api.errors import ApiError, Invalid, Malformed, plain
from dreadnode_api.http.multipart import Part, parts

ONLY_SPLIT = "train"
MAX_SPLITS = 32
HEADERS_BYTES = 1 << 20
"""What the parts of a body may take beside their bytes."""

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


@dataclass(frozen=True, slots=True)
class Piece:
    """A split that has arrived: its file, and its rows as JSONL, which may be the same bytes."""

    split: str
    format: str
    rows: int
    file: Incoming
    content: Incoming


@dataclass
class Receiver:
    """Takes in the body of one push; what it has taken vanishes with `stack` unless it is kept."""

    store: BlobStore
    converter: Converter
    limit: int
    stack: AsyncExitStack
    _files: list[tuple[str, str, Incoming, int]] = field(default_factory=list)

    async def file(self, split: str, kind: str, chunks: AsyncIterator[bytes]) -> None:
        """Take in the file of a split; JSONL is checked while it arrives."""
        counter = RowCounter()
        watch = counter.feed if kind == "jsonl" else None
        left = self.limit - sum(file.bytes for _, _, file, _ in self._files)
        file = await self.stack.enter_async_context(self.store.receiving(chunks, left, watch))
        self._files.append((split, kind, file, counter.finish() if kind == "jsonl" else 0))

    async def part(self, part: Part) -> None:
        """Take in a part, which its own name makes a split."""
        if not is_split_name(part.name):
            raise Invalid(
                f"`{plain(part.name[:100])}` cannot be the name of a split: lower-case letters, "
                "digits and . _ - only, at most 64 of them"
            )
        if any(part.name == split for split, *_ in self._files):
            raise Invalid(f"The split `{part.name}` is there twice; a split is one file")
        if len(self._files) == MAX_SPLITS:
            raise Invalid(f"A dataset has at most {MAX_SPLITS} splits")
        try:
            await self.file(part.name, _kind(part), part.data)
        except Invalid as refused:
            raise Invalid(f"Split `{part.name}`: {refused.detail}") from None

    async def pieces(self) -> list[Piece]:
        """Return every split that has arrived, its rows as JSONL too.

        Raises:
            Invalid: there is none, or one's rows cannot be taken.
        """
        if not self._files:
            raise Invalid("The body holds no file; send one part for each split")
        found: list[Piece] = []
        left = self.limit
        for split, kind, file, rows in self._files:
            content = file
            if kind != "jsonl":
                fresh = self.stack.enter_context(self.store.fresh())
                try:
                    made = await self.converter.convert(kind, file.file, fresh, left)
                except Invalid as refused:
                    named = f"Split `{split}`: " if len(self._files) > 1 else ""
                    raise Invalid(named + refused.detail) from None
                content, rows = self.store.incoming(fresh, made.sha256, made.bytes), made.rows
            left -= content.bytes
            found.append(Piece(split, kind, rows, file, content))
        return found


@asynccontextmanager
async def received(
    request: Request, store: BlobStore, converter: Converter, limit: int
) -> AsyncIterator[list[Piece]]:
    """Take in the splits that the body of REQUEST holds, for the decision to keep them.

    Args:
        request: One file, whose type names its format and which becomes the split `train`; or
            multipart/form-data, with a part for each split.
        store: Where they go.
        converter: Makes JSONL of what is none.
        limit: The bytes that all files may take, and that all rows may take as JSONL.

    Raises:
        Malformed: There are more bytes, or the body cannot be read.
        Invalid: It is no dataset; the sentence names the split where there are several.
    """
    kind, boundary = _content_type(request)
    async with AsyncExitStack() as stack:
        receiver = Receiver(store, converter, limit, stack)
        if kind != "multipart/form-data":
            await receiver.file(ONLY_SPLIT, MEDIA_TYPES.get(kind, "jsonl"), request.stream())
        else:
            body = request.stream()
            try:
                async for part in parts(_bounded(body, limit + HEADERS_BYTES), boundary):
                    await receiver.part(part)
            except ApiError:
                # A client that is still sending reads no answer, so let it finish, within bounds.
                size = 0
                async for chunk in body:
                    size += len(chunk)
                    if size > limit:
                        break
                raise
        yield await receiver.pieces()


def _content_type(request: Request) -> tuple[str, str]:
    """Return the type of the body, without its parameters, and the boundary of its parts."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    boundary = ""
    for each in parameters.split(";"):
        name, _, value = each.strip().partition("=")
        if name.lower() == "boundary":
            boundary = value.strip('"')
    kind = kind.strip().lower()
    if kind == "multipart/form-data" and not 0 < len(boundary) <= 70:
        raise Malformed("The `Content-Type` names no `boundary` between the parts")
    return kind, boundary


def _kind(part: Part) -> str:
    """Return the format of PART: by its file's name, else by its type, else JSONL."""
    suffix = PurePosixPath(part.filename.lower()).suffix
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix:
        known = ", ".join(f"`{each}`" for each in SUFFIXES)
        raise Invalid(f"`{plain(part.filename[:100])}` is none of {known}")
    return MEDIA_TYPES.get(part.content_type.lower(), "jsonl")


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise Malformed(f"The body is larger than the {limit:,} bytes that are taken here")
        yield chunk
