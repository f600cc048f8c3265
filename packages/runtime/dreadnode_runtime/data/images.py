"""Images in a message's content, as `data:` URLs."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from dreadnode_runtime.data.fields import Fields
from dreadnode_runtime.data.normal_form import ImagePart, Unusable, shown

_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,(.+)", re.DOTALL)
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}
"""How a file of each kind that image readers take begins."""


def read_image(fields: Fields) -> ImagePart:
    """Return the image of a part with FIELDS, in the form of any vendor.

    Raises:
        Unusable: It is an address, a path that the push did not resolve, or not an image.
    """
    raw = fields.take("image_url", "image", "source", "inlineData", "inline_data", "url", "data")
    if fields.peek("detail") is not None:
        fields.take("detail")
    return ImagePart(type="image", image=_data_url(raw))


def _data_url(raw: Any) -> str:
    if isinstance(raw, Mapping):
        inner = raw.get("url") or raw.get("image_url") or raw.get("path")
        data = raw.get("data") or raw.get("bytes")
        if isinstance(data, str):
            media = raw.get("media_type") or raw.get("mimeType") or raw.get("mime_type")
            raw = f"data:{media or _media_type(data)};base64,{data}"
        else:
            raw = inner
    if not isinstance(raw, str) or not raw:
        raise Unusable(f"an image is {shown(raw)}; write it as a `data:` URL with base64")
    if raw.startswith(("http://", "https://")):
        raise Unusable(f"an image is the address {shown(raw)}; write it as a `data:` URL")
    match = _DATA_URL.fullmatch(raw)
    if match is None:
        raise Unusable(
            f"an image is {shown(raw)}; write it as a `data:` URL with base64, "
            "or push the folder that holds the file"
        )
    if _media_type(match[2]) is None:
        raise Unusable(f"an image is {shown(raw)}, which does not hold a PNG, JPEG, GIF or WebP")
    return raw


def _media_type(data: str) -> str | None:
    """Return the kind of the image whose base64 is DATA, from its first bytes; None if unknown."""
    try:
        head = base64.b64decode(data[:16], validate=True)
        # The whole text must be base64, and is not decoded here.
        if len(data) % 4 or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", data):
            return None
    except (binascii.Error, ValueError):
        return None
    return next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), None)
