"""The archive of a capability: `python -I -m dreadnode_api.capabilities.archive FILE [AGENT]`.

An archive is a gzipped tar of a folder with `capability.yaml` and, in `agents/`, one Markdown or
text file for each agent. Training uses one thing of it, the prompt of the entry agent. The process
prints that as a JSON object with `agent` and `prompt`, both null if there is none, or an `error` in
one sentence. It runs confined and imports only the standard library, because the file comes from a
client. Nothing is ever extracted to the disk.
"""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

MAX_PROMPT = 100_000
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 10_000
MAX_PATH = 300
# Four bytes are the most that UTF-8 needs for a character.
MAX_PROMPT_BYTES = 4 * MAX_PROMPT
_SUFFIXES = (".md", ".txt")
# Links and devices lead out of the archive; a sparse file is larger than its bytes in the archive.
_PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)


class BadArchive(Exception):
    """An archive that is refused; the text is one sentence for the client."""


def main(arguments: list[str]) -> int:
    """Read the archive that ARGUMENTS name, and print the result."""
    archive, entry_agent = Path(arguments[0]), arguments[1] if arguments[1:] else None
    result: dict[str, Any]
    try:
        agent, prompt = entry_prompt(archive, entry_agent)
        result = {"agent": agent, "prompt": prompt}
    except BadArchive as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {"error": "Reading the capability takes more memory than the limit"}
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(json.dumps(result, ensure_ascii=False))
    return 0


def entry_prompt(archive: Path, entry_agent: str | None) -> tuple[str | None, str | None]:
    """Return the name and the prompt of the entry agent, or None for both.

    Args:
        archive: The gzipped tar.
        entry_agent: The agent that the manifest names; by default the first by name.

    Raises:
        BadArchive: the archive cannot be read, has unsafe members, or is too large.
    """
    wanted = [f"agents/{entry_agent}{suffix}" for suffix in _SUFFIXES] if entry_agent else []
    best: tuple[tuple[int, str], bytes] | None = None
    try:
        with gzip.open(archive) as unpacked:
            stream = cast("IO[bytes]", _Bounded(unpacked))  # tarfile calls only `read`.
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for number, member in enumerate(tar, 1):
                    path = _checked(member, number)
                    if path.parent.as_posix() != "agents" or path.suffix not in _SUFFIXES:
                        continue
                    name = path.as_posix()
                    rank = (wanted.index(name) if name in wanted else len(wanted), name)
                    file = tar.extractfile(member)
                    # Only one prompt is ever in memory.
                    if file is not None and (best is None or rank <= best[0]):
                        best = rank, file.read(MAX_PROMPT_BYTES + 1)
    except BadArchive:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Any error of the decoders means that they cannot read it.
        raise BadArchive(
            "The archive of the capability is not a gzipped tar that can be read"
        ) from error
    if best is None:
        return None, None
    prompt = _prompt(best[0][1], best[1])
    return (PurePosixPath(best[0][1]).stem, prompt) if prompt else (None, None)


class _Bounded:
    """A reader that returns a bounded number of bytes, so that a small archive stays small."""

    def __init__(self, source: gzip.GzipFile) -> None:
        self._source = source
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = self._source.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise BadArchive(f"The capability unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        return data


def _checked(member: tarfile.TarInfo, number: int) -> PurePosixPath:
    """Return the path of a member, a plain file or folder inside the archive."""
    if number > MAX_MEMBERS:
        raise BadArchive(f"The capability has more than {MAX_MEMBERS:,} files")
    if member.type not in _PLAIN_TYPES or member.issparse():
        raise BadArchive("The capability has a link, a device or a sparse file; pack plain files")
    path = PurePosixPath(member.name)
    is_outside = path.is_absolute() or ".." in path.parts or "\\" in member.name
    if is_outside or len(member.name) > MAX_PATH or not member.name.isprintable():
        raise BadArchive("The capability has a file whose path leads out of it or is too long")
    return path


def _prompt(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if len(content) <= MAX_PROMPT_BYTES:
            raise BadArchive(f"The agent prompt `{name}` is not UTF-8") from None
        text = content.decode("utf-8", "ignore")
    prompt = without_front_matter(text).strip()
    if len(prompt) > MAX_PROMPT:
        raise BadArchive(f"The agent prompt `{name}` is longer than {MAX_PROMPT:,} characters")
    if "\0" in prompt:
        raise BadArchive(f"The agent prompt `{name}` contains null characters")
    return prompt


def without_front_matter(text: str) -> str:
    """Return a Markdown text without the YAML between `---` lines at its beginning."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].rstrip() != "---":
        return text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == "---":
            return "\n".join(lines[number + 1 :])
    return text


def pack(name: str, version: str, description: str | None, prompt: str) -> bytes:
    """Return the archive of a capability with one prompt; the same input gives the same bytes."""
    fields = {"schema": 1, "name": name, "version": version, "description": description or name}
    # JSON's strings and numbers are valid YAML.
    manifest = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
    agent = f"---\nname: {json.dumps(name)}\n---\n{prompt}\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in (("capability.yaml", manifest), (f"agents/{name}.md", agent)):
            content = text.encode()
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
