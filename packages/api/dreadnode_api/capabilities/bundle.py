"""The archive of a capability: read within bounds, and never written to a path of its own choosing.

An archive is a gzipped tar of a directory with `capability.yaml` and, in `agents/`, one Markdown
or text file for each agent. What training needs of it is the prompt of the entry agent.
"""

import gzip
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from dreadnode_api.capabilities.schemas import MAX_PROMPT
from dreadnode_api.errors import Malformed

MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 10_000
MAX_PATH = 300
_PROMPTS = (".md", ".txt")


@dataclass(frozen=True, slots=True)
class EntryPrompt:
    """The prompt of the agent that a capability begins with."""

    agent: str
    text: str


def entry_prompt(archive: Path, entry_agent: str | None) -> EntryPrompt | None:
    """Return the entry agent's prompt out of a capability's archive.

    Args:
        archive: The gzipped tar.
        entry_agent: The agent that its manifest names; without one, the first by name is meant.

    Returns:
        The prompt without its front matter, or None when the archive holds no agent's file, or
        an empty one.

    Raises:
        Malformed: the archive cannot be read, leads out of itself, or is too large.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as unpacked:
            # tarfile asks for nothing but `read`.
            stream = cast("IO[bytes]", _Bounded(unpacked))
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for number, member in enumerate(tar, 1):
                    path = _confined(member, number)
                    if path.parent.as_posix() == "agents" and path.suffix in _PROMPTS:
                        file = tar.extractfile(member)
                        if file is not None:
                            # Four bytes are the most that UTF-8 needs for a character.
                            found[path.as_posix()] = file.read(4 * MAX_PROMPT + 1)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise Malformed("The capability's archive is not a gzipped tar that can be read") from error
    names = [f"agents/{entry_agent}{suffix}" for suffix in _PROMPTS] if entry_agent else []
    name = next((name for name in names if name in found), None) or min(found, default=None)
    if name is None:
        return None
    text = _text(name, found[name])
    return EntryPrompt(PurePosixPath(name).stem, text) if text else None


class _Bounded:
    """A reader that gives out so much and no more, so that a small archive stays small."""

    def __init__(self, source: gzip.GzipFile) -> None:
        self._source = source
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Malformed(f"The capability unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        return data


def _confined(member: tarfile.TarInfo, number: int) -> PurePosixPath:
    """Return the path of a member that is a plain file or folder inside the archive."""
    if number > MAX_MEMBERS:
        raise Malformed(f"The capability holds more than {MAX_MEMBERS:,} files")
    if not (member.isfile() or member.isdir()):
        raise Malformed("The capability holds a link or a device; pack plain files only")
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name
    if outside or len(member.name) > MAX_PATH or not member.name.isprintable():
        raise Malformed("The capability holds a file whose path leads out of it or is too long")
    return path


def _text(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if len(content) <= 4 * MAX_PROMPT:
            raise Malformed(f"The agent prompt `{name}` is not UTF-8") from None
        text = content.decode("utf-8", "ignore")
    prompt = without_front_matter(text).strip()
    if len(prompt) > MAX_PROMPT:
        raise Malformed(f"The agent prompt `{name}` is longer than {MAX_PROMPT:,} characters")
    if "\0" in prompt:
        raise Malformed(f"The agent prompt `{name}` holds null characters")
    return prompt


def without_front_matter(text: str) -> str:
    """Return a Markdown text without the YAML between `---` lines that it may begin with."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].rstrip() != "---":
        return text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == "---":
            return "\n".join(lines[number + 1 :])
    return text


def pack(name: str, version: str, description: str | None, prompt: str) -> bytes:
    """Return the archive of a capability that is one prompt, the same bytes each time."""
    told = {"schema": 1, "name": name, "version": version, "description": description or name}
    # YAML reads JSON's strings and numbers as JSON does.
    manifest = "".join(f"{key}: {json.dumps(value)}\n" for key, value in told.items())
    agent = f"---\nname: {json.dumps(name)}\n---\n{prompt}\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in (("capability.yaml", manifest), (f"agents/{name}.md", agent)):
            content = text.encode()
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)
