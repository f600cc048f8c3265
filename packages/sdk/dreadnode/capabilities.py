"""What can be read of a capability before it is sent: a named, versioned system prompt.

It is a file that holds the prompt, or a folder as other tools keep one:

    capability.yaml        name, version, description, entry_agent
    agents/<agent>.md      the prompt of each agent, after its front matter
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreadnode.datasets.jsonl import NAME, VERSION
from dreadnode.errors import InputError, UnusableFile

MAX_PROMPT = 100_000
MANIFEST = "capability.yaml"
_SUFFIXES = (".md", ".txt")


@dataclass(frozen=True)
class Draft:
    """A capability that has been read, and not been sent.

    Attributes:
        name: Of the capability, if its folder says one.
        version: Likewise.
        prompt: What goes in front of every conversation.
        description: For people.
    """

    prompt: str
    name: str | None = None
    version: str | None = None
    description: str | None = None


def read(path: Path) -> Draft:
    """Read the capability at PATH, which is the file of a prompt or a folder.

    Raises:
        UnusableFile: It cannot be read, or holds no prompt.
    """
    if not path.is_dir():
        return Draft(_prompt(path))
    manifest = _manifest(path / MANIFEST)
    told = {
        key: str(manifest[key])
        for key in ("name", "version", "description", "entry_agent")
        if manifest.get(key) is not None
    }
    agents = sorted(each for each in (path / "agents").glob("*") if each.suffix in _SUFFIXES)
    if not agents:
        raise UnusableFile(f"{path} holds no prompt: add one as agents/NAME.md")
    entry = told.get("entry_agent", agents[0].stem)
    named = [each for each in agents if each.stem == entry]
    if not named:
        known = ", ".join(f"`{each.stem}`" for each in agents)
        raise UnusableFile(
            f"{path / MANIFEST} names the entry agent `{entry}`, which has no file in agents/; "
            f"there are: {known}"
        )
    prompt = _prompt(named[0])
    return Draft(prompt, told.get("name"), told.get("version"), told.get("description"))


def parse_ref(text: str) -> tuple[str, str]:
    """Split NAME@VERSION.

    Raises:
        InputError: A part is missing, or is not what names and versions are made of.
    """
    name, at, version = text.partition("@")
    if not at or not version or version == "latest":
        raise InputError(
            f"`{text}` names no version of a capability; write NAME@VERSION "
            f"(`dn capability get {name or 'NAME'}` shows the newest)"
        )
    return checked(name, version)


def checked(name: str, version: str) -> tuple[str, str]:
    """Return NAME and VERSION if they can be those of a capability.

    Raises:
        InputError: One cannot.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"`{name}` cannot be the name of a capability: "
            "lower-case letters, digits and . _ - only"
        )
    if not VERSION.fullmatch(version):
        raise InputError(
            f"`{version}` cannot be a version: letters, digits and . + - only, at most 64 of them"
        )
    return name, version


def _manifest(path: Path) -> dict[str, Any]:
    import yaml

    try:
        manifest = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UnusableFile(f"{path} is not YAML; see `dn capability push --help`") from error
    if not isinstance(manifest, dict):
        raise UnusableFile(f"{path} must hold the capability's name and version")
    return manifest


def _prompt(path: Path) -> str:
    prompt = without_front_matter(_text(path)).strip()
    if not prompt:
        raise UnusableFile(f"{path} holds no prompt")
    if len(prompt) > MAX_PROMPT:
        raise UnusableFile(f"{path} holds {len(prompt):,} characters; {MAX_PROMPT:,} are taken")
    return prompt


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"{path} is not text in UTF-8") from error
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from error


def without_front_matter(text: str) -> str:
    """Return a Markdown TEXT without the YAML between `---` lines that it may begin with."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == "---":
            return "\n".join(lines[number + 1 :])
    return text
