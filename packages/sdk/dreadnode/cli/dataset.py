"""`dn dataset push | list | get`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import count, hint, say

if TYPE_CHECKING:
    from dreadnode.client import ApiClient
    from dreadnode.wire import Dataset

app = App(name="dataset", help="Store datasets and look at them.")


@app.command
def push(
    file: Annotated[Path, Parameter(help="A .jsonl file: one JSON object on each line.")],
    ref: Annotated[
        str | None,
        Parameter(help="NAME@VERSION; made of the file's name and content if not given."),
    ] = None,
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Store a file as a version of a dataset, which never changes afterwards.

    To push the same content again changes nothing; other content needs another version.
    """
    from dreadnode.jsonl import parse_ref

    name, version = parse_ref(ref) if ref else (None, None)
    with common.client() as client:
        stored = upload(client, file, name, version)
    common.out.record(stored, views.DATASET)
    hint(f"`dn train sft --model MODEL --dataset {stored.ref}` trains on it")


@app.command(name="list")
def list_datasets(
    *,
    page: Annotated[int, Parameter(help="Which page.", show_default=True)] = 1,
    page_size: Annotated[int, Parameter(help="Datasets on a page.", show_default=True)] = 20,
    common: Common = DEFAULT,
) -> None:
    """List the organization's datasets."""
    with common.client() as client:
        found = client.list_datasets(page=page, page_size=page_size)
    common.out.rows(
        found.items, views.DATASETS, none="no datasets; `dn dataset push FILE` stores one"
    )
    if found.total > page * page_size:
        hint(f"{found.total:,} in all; `dn dataset list --page {page + 1}` shows more")


@app.command
def get(
    dataset: Annotated[str, Parameter(help="NAME for all its versions, or NAME@VERSION for one.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Show the versions of a dataset, newest first, or one of them."""
    from dreadnode.jsonl import parse_ref

    with common.client() as client:
        if "@" in dataset:
            common.out.record(client.get_dataset_version(*parse_ref(dataset)), views.DATASET)
        else:
            versions = client.get_dataset(dataset).versions
            common.out.rows(versions, views.DATASETS, none=f"`{dataset}` has no versions")


def upload(
    client: ApiClient, file: Path, name: str | None = None, version: str | None = None
) -> Dataset:
    """Check FILE, store it, and say under which name.

    Without a name and version, the file's own name is taken, and a version made of its content: the
    same content is the same version.
    """
    from dreadnode.jsonl import check

    checked = check(file)
    if name is None or version is None:
        name, version = checked.ref
    stored = client.push_dataset(name, version, file)
    say(f"stored {file} as {stored.ref}: {count(stored.rows, 'row')}, {stored.bytes:,} bytes")
    return stored
