"""Several files in one request, as multipart/form-data, read only while they are sent."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dreadnode.errors import UnusableFile

CHUNK = 1 << 16


@dataclass(frozen=True)
class Form:
    """Files to be sent, each with its name in the form.

    Attributes:
        files: The file of each name, and the file name that the server is told.
        boundary: What stands between the parts.
    """

    files: Mapping[str, tuple[Path, str]]
    boundary: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def content_type(self) -> str:
        """How the request calls its body."""
        return f"multipart/form-data; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """The bytes that `chunks` yields."""
        heads = sum(len(self._head(name, told)) + 2 for name, (_, told) in self.files.items())
        try:
            bodies = sum(path.stat().st_size for path, _ in self.files.values())
        except OSError as error:
            raise UnusableFile(f"{error.filename} cannot be read: {error.strerror}") from error
        return heads + bodies + len(self._end())

    def chunks(self) -> Iterator[bytes]:
        """Yield the body piece by piece."""
        for name, (path, told) in self.files.items():
            yield self._head(name, told)
            try:
                with path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        yield chunk
            except OSError as error:
                raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error
            yield b"\r\n"
        yield self._end()

    async def async_chunks(self) -> AsyncIterator[bytes]:
        """Yield the same, without holding up whatever else is going on."""
        import asyncio

        chunks = self.chunks()
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield chunk

    def _head(self, name: str, told: str) -> bytes:
        return (
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{told}"\r\n\r\n'
        ).encode()

    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode()
