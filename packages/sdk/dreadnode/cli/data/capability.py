"""`dn capability push | list | get | download | delete`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, hint, say
from dreadnode.lazy_types import wire

app = App(
    name="capability",
    help="Store system prompts with a name and a version, for jobs.",
    version_flags=[],
)


def _ref(capability: wire.Capability) -> str:
    return f"{capability.name}@{capability.version}"


CAPABILITIES: tuple[Column, ...] = (
    ("capability", _ref),
    ("description", lambda capability: capability.description),
    ("created", lambda capability: capability.created_at),
)

CAPABILITY: tuple[Column, ...] = (
    *CAPABILITIES[:2],
    ("agent", lambda capability: capability.entry_agent),
    ("sha256", lambda capability: capability.artifact_sha256),
    CAPABILITIES[2],
    ("prompt", lambda capability: capability.prompt),
)


@app.command
def push(
    path: Annotated[
        Path, Parameter(help="Text file with the prompt, or folder with capability.yaml.")
    ],
    ref: Annotated[str | None, Parameter(help="NAME@VERSION; else from capability.yaml.")] = None,
    /,
    *,
    description: Annotated[str | None, Parameter(help="Description.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Store a system prompt as a version of a capability, which never changes.

    A folder's prompt is that of its entry agent: the file in agents/ that capability.yaml names as
    entry_agent, or the first file.
    """
    from dreadnode import capabilities
    from dreadnode.datasets.jsonl import checked_ref
    from dreadnode.errors import InputError

    local = capabilities.read(path)
    if ref is not None:
        name, version = capabilities.parse_ref(ref)
    elif local.name and local.version:
        name, version = checked_ref("capability", local.name, local.version)
    else:
        raise InputError(f"{path} has no name and version; add NAME@VERSION")
    with common.client() as client:
        stored = client.push_capability(
            name, version, local.prompt, description=description or local.description
        )
    common.out.record(stored, CAPABILITY)
    hint(f"`dn train sft --capability {_ref(stored)} …` trains with it")


@app.command(name="list")
def list_capabilities(
    *,
    search: Annotated[str | None, Parameter(help="Text in the name or the description.")] = None,
    page: Annotated[int, Parameter(help="Page number.", show_default=True)] = 1,
    page_size: Annotated[int, Parameter(help="Capabilities per page.", show_default=True)] = 20,
    common: Common = DEFAULT,
) -> None:
    """List the organization's capabilities, each with its newest version."""
    with common.client() as client:
        found = client.list_capabilities(search=search, page=page, limit=page_size)
    common.out.rows(
        found.capabilities,
        CAPABILITIES,
        none="no capabilities; `dn capability push PATH` stores one",
    )
    if found.total > page * page_size:
        hint(f"{found.total:,} in all; `dn capability list --page {page + 1}` shows more")


@app.command
def get(
    capability: Annotated[str, Parameter(help="NAME for the newest version, or NAME@VERSION.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Show a capability with its prompt."""
    from dreadnode import capabilities

    with common.client() as client:
        if "@" in capability:
            found = client.get_capability_version(*capabilities.parse_ref(capability))
        else:
            found = client.get_capability(capability)
    common.out.record(found, CAPABILITY)


@app.command
def download(
    capability: Annotated[str, Parameter(help="NAME@VERSION.")],
    /,
    *,
    to: Annotated[
        Path | None, Parameter(help="File to write; else `NAME-VERSION.tar.gz` in this folder.")
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Download the files of a capability as a gzipped tar; never overwrites a file."""
    from dreadnode import capabilities
    from dreadnode.errors import UnusableFile
    from dreadnode.http.calls import capability_archive

    name, version = capabilities.parse_ref(capability)
    target = to or Path(f"{name}-{version}.tar.gz")
    if target.exists():
        raise UnusableFile(f"{target} already exists; name another file with `--to`")
    with common.client() as client:
        client.save(capability_archive(client.scope, name, version), target)
    if common.json:
        common.out.json({"file": str(target), "bytes": target.stat().st_size})
    else:
        common.out.text(str(target))


@app.command
def delete(
    capability: Annotated[str, Parameter(help="NAME@VERSION.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Delete a version of a capability; jobs that use its prompt keep it.

    Only the same content can be pushed as this version again.
    """
    from dreadnode import capabilities

    with common.client() as client:
        deleted = client.delete_capability(*capabilities.parse_ref(capability))
    say(f"deleted capability {_ref(deleted)}")
    common.out.record(deleted, CAPABILITIES)
