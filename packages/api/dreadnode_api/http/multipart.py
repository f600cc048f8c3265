"""A multipart/form-data body, parsed part by part while it arrives."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dreadnode_api.errors import Malformed

MAX_HEADER_BYTES = 4096
HEADERS_BYTES = 1 << 20
"""The bytes that the headers of all parts may take."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its headers, and its bytes, which must be read before the next part."""

    name: str
    filename: str
    content_type: str
    data: AsyncIterator[bytes]


async def parts(chunks: AsyncIterator[bytes], boundary: str) -> AsyncIterator[Part]:
    """Yield the parts of the body that arrives in CHUNKS.

    Raises:
        Malformed: it is not such a body, or ends too early.
    """
    body = _Body(chunks, boundary)
    while (event := await body.event()) != "end":
        if event != "part_begin":
            raise Malformed("The body is not multipart/form-data")
        headers = await body.headers()
        data = body.data()
        yield Part(
            name=str(headers.get_param("name", "", "content-disposition")),
            filename=str(headers.get_filename("")),
            content_type=headers.get_content_type() if "content-type" in headers else "",
            data=data,
        )
        async for _ in data:  # The bytes of this part that were not read.
            pass


class _Body:
    """Turns the callbacks of the parser into events that can be awaited."""

    def __init__(self, chunks: AsyncIterator[bytes], boundary: str) -> None:
        self._chunks = chunks
        self._events: deque[tuple[str, bytes]] = deque()
        self._data = b""
        add = self._events.append
        names = ("part_begin", "part_end", "headers_finished", "header_end", "end")
        pieces = ("part_data", "header_field", "header_value")
        # Each lambda binds its name as a default value, because the loop changes the variable.
        callbacks = {
            **{f"on_{name}": lambda name=name: add((name, b"")) for name in names},
            **{
                f"on_{name}": lambda data, start, end, name=name: add((name, data[start:end]))
                for name in pieces
            },
        }
        self._parser = MultipartParser(boundary.encode("latin-1", "replace"), callbacks)  # type: ignore[arg-type]

    async def event(self) -> str:
        """Return the next event; its bytes are in `_data`."""
        while not self._events:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise Malformed("The multipart body ends before its last part does")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Malformed(f"The body is not multipart/form-data: {error}") from None
        kind, self._data = self._events.popleft()
        return kind

    async def headers(self) -> Message:
        """Return the headers of the part that has started."""
        found, field, value, size = Message(), b"", b"", 0
        while (kind := await self.event()) != "headers_finished":
            size += len(self._data)
            if size > MAX_HEADER_BYTES:
                raise Malformed("The headers of a part are too long")
            if kind == "header_field":
                field += self._data
            elif kind == "header_value":
                value += self._data
            elif kind == "header_end":
                found[field.decode("latin-1")] = value.decode("utf-8", "replace")
                field, value = b"", b""
        return found

    async def data(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the part whose headers have been read."""
        while await self.event() != "part_end":
            yield self._data


def content_type(request: Request) -> tuple[str, str]:
    """Return the content type of the body without its parameters, and the boundary of its parts."""
    found, parameters = parse_options_header(request.headers.get("content-type", ""))
    kind, boundary = found.decode("latin-1"), parameters.get(b"boundary", b"").decode("latin-1")
    if kind == "multipart/form-data" and not 0 < len(boundary) <= 70:
        raise Malformed("The `Content-Type` header needs a `boundary` of at most 70 characters")
    return kind, boundary


async def bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield CHUNKS.

    Raises:
        Malformed: they have more than LIMIT bytes.
    """
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise Malformed(f"The body is larger than the limit of {limit:,} bytes")
        yield chunk
