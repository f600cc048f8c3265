"""Reads a capability, a named and versioned system prompt, from local files.

It is a file with the prompt, or a folder in the layout of other tools:

    capability.yaml        name, version, description, entry_agent
    agents/<agent>.md      the prompt of each agent, after its front matter
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode.datasets.jsonl import checked_ref
from dreadnode.errors import InputError, UnusableFile

MAX_PROMPT = 100_000
MANIFEST = "capability.yaml"
_SUFFIXES = (".md", ".txt")


@dataclass(frozen=True)
class LocalCapability:
    """A capability from local files.

    Attributes:
        prompt: The system prompt, which goes before every conversation.
        name: Its name, if the folder has one.
        version: Its version, if the folder has one.
        description: Its description, if the folder has one.
    """

    prompt: str
    name: str | None = None
    version: str | None = None
    description: str | None = None


def read(path: Path) -> LocalCapability:
    """Read the capability at PATH, which is a file with the prompt or a folder.

    Raises:
        UnusableFile: It cannot be read, or has no prompt.
    """
    if not path.is_dir():
        return LocalCapability(_prompt(path))
    manifest = _manifest(path / MANIFEST)
    fields = {
        key: str(manifest[key])
        for key in ("name", "version", "description", "entry_agent")
        if manifest.get(key) is not None
    }
    agents = sorted(each for each in (path / "agents").glob("*") if each.suffix in _SUFFIXES)
    if not agents:
        raise UnusableFile(f"{path} has no prompt; add one as agents/NAME.md")
    entry = fields.get("entry_agent", agents[0].stem)
    found = [each for each in agents if each.stem == entry]
    if not found:
        known = ", ".join(f"`{each.stem}`" for each in agents)
        raise UnusableFile(
            f"{path / MANIFEST}: the entry agent `{entry}` has no file in agents/; "
            f"agents with a file: {known}"
        )
    prompt = _prompt(found[0])
    return LocalCapability(
        prompt, fields.get("name"), fields.get("version"), fields.get("description")
    )


def parse_ref(text: str) -> tuple[str, str]:
    """Split the NAME@VERSION of a capability.

    Raises:
        InputError: A part is missing or not valid.
    """
    name, at, version = text.partition("@")
    if not at or not version or version == "latest":
        raise InputError(
            f"`{text}` has no version; write NAME@VERSION of a capability "
            f"(`dn capability get {name or 'NAME'}` shows the newest)"
        )
    return checked_ref("capability", name, version)


def _manifest(path: Path) -> dict[str, Any]:
    import yaml

    try:
        manifest = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UnusableFile(f"{path} is not valid YAML; see `dn capability push --help`") from error
    if not isinstance(manifest, dict):
        raise UnusableFile(f"{path} must be a mapping with the capability's name and version")
    return manifest


def _prompt(path: Path) -> str:
    prompt = without_front_matter(_text(path)).strip()
    if not prompt:
        raise UnusableFile(f"{path} has no prompt")
    if len(prompt) > MAX_PROMPT:
        raise UnusableFile(f"{path} has {len(prompt):,} characters; the limit is {MAX_PROMPT:,}")
    return prompt


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path} is not text in UTF-8") from error
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error


def without_front_matter(text: str) -> str:
    """Return a Markdown TEXT without its front matter, the YAML between `---` lines."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == "---":
            return "\n".join(lines[number + 1 :])
    return text
