"""The style sheets and scripts of the pages, served from memory under the digest of their content.

A changed file changes the address of all, so browsers may keep each for ever. Modules import each
other by relative paths, which is why the digest is that of the folder and not of the file.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from dreadnode_api.errors import NotFound

FOLDER = Path(__file__).with_name("static")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CACHE = "public, max-age=31536000, immutable"

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent: plain and compressed."""

    media_type: str
    plain: bytes
    compressed: bytes


@cache
def load() -> tuple[str, dict[str, Asset]]:
    """Return the digest of all files, and the files by name."""
    files = {
        path.relative_to(FOLDER).as_posix(): path
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in TYPES
    }
    digest = hashlib.sha256()
    found = {}
    for name, path in files.items():
        content = path.read_bytes()
        digest.update(name.encode() + b"\0" + content)
        found[name] = Asset(TYPES[path.suffix], content, gzip.compress(content, 9, mtime=0))
    return digest.hexdigest()[:16], found


def static(name: str) -> str:
    """Return the address of the file NAME.

    Raises:
        KeyError: there is no such file.
    """
    digest, files = load()
    if name not in files:
        raise KeyError(name)
    return f"/static/{digest}/{name}"


@router.get("/static/{digest}/{name:path}")
async def asset(digest: str, name: str, request: Request) -> Response:
    """Return a file; one of another version of this server does not exist."""
    current, files = load()
    found = files.get(name)
    if digest != current or found is None:
        raise NotFound("This file belongs to another version of the server; reload the page")
    is_compressed = accepts_gzip(request)
    headers = {"Cache-Control": CACHE, "Vary": "Accept-Encoding"}
    if is_compressed:
        headers["Content-Encoding"] = "gzip"
    content = found.compressed if is_compressed else found.plain
    return Response(content, media_type=found.media_type, headers=headers)


def accepts_gzip(request: Request) -> bool:
    """Return whether the client of REQUEST takes compressed responses."""
    return "gzip" in request.headers.get("accept-encoding", "")
