"""`dn dataset push | list | get | read | delete`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import count, hint, say, show
from dreadnode.errors import InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.wire import Dataset

Format = Literal["jsonl", "json", "csv", "parquet"]

app = App(name="dataset", help="Store, read and delete datasets.", version_flags=[])


@app.command
def push(
    source: Annotated[
        Path,
        Parameter(
            help="A .jsonl, .json, .csv or .parquet file, which becomes the split `train`; or a "
            "folder of such files, each named like its split. Text files can be compressed: .gz or "
            ".zst."
        ),
    ],
    ref: Annotated[
        str | None,
        Parameter(help="NAME@VERSION; else from the source's name and content."),
    ] = None,
    /,
    *,
    split: Annotated[
        tuple[str, ...],
        Parameter(help="Further split, as SPLIT=FILE. Repeatable."),
    ] = (),
    format: Annotated[  # noqa: A002 - the flag's own name
        Format | None,
        Parameter(help="Format of the files; else from their suffixes."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Store files as a version of a dataset, which never changes.

    JSONL has one JSON object on each line; JSON is an array of objects, or JSONL; CSV has a header;
    Parquet can have nested columns. Pushing the same content again has no effect; other content
    needs another version.
    """
    from dreadnode.datasets.jsonl import parse_ref

    name, version = parse_ref(ref) if ref else (None, None)
    with common.client() as client:
        stored = upload(client, source, name, version, splits=split, kind=format)
    common.out.record(stored, views.DATASET)
    hint(f"`dn train sft --model MODEL --dataset {stored.ref}` trains on it")


@app.command(name="list")
def list_datasets(
    *,
    page: Annotated[int, Parameter(help="Page number.", show_default=True)] = 1,
    page_size: Annotated[int, Parameter(help="Datasets per page.", show_default=True)] = 20,
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
    dataset: Annotated[str, Parameter(help="NAME for all versions, or NAME@VERSION for one.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Show all versions of a dataset, newest first, or one version."""
    from dreadnode.datasets.jsonl import parse_ref

    with common.client() as client:
        if "@" in dataset:
            common.out.record(client.get_dataset_version(*parse_ref(dataset)), views.DATASET)
        else:
            versions = client.get_dataset(dataset).versions
            common.out.rows(versions, views.DATASETS, none=f"`{dataset}` has no versions")


@app.command(name="read")
def read_rows(
    dataset: Annotated[str, Parameter(help="NAME@VERSION.")],
    /,
    *,
    split: Annotated[str | None, Parameter(help="Split; else the only one, or `train`.")] = None,
    rows: Annotated[int | None, Parameter(help="Number of rows, from the first.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Print the rows of a dataset as jobs read them: as JSONL, from every format."""
    from dreadnode.datasets.jsonl import parse_ref
    from dreadnode.http.calls import dataset_content

    if rows is not None and rows < 1:
        raise InputError(f"`--rows` must be above 0, not {rows}")
    with common.client() as client:
        content = client.stream(dataset_content(client.scope, *parse_ref(dataset), split=split))
        for line in islice(_lines(content), rows):
            common.out.text(line.strip())


@app.command
def delete(
    dataset: Annotated[str, Parameter(help="NAME@VERSION.")], /, *, common: Common = DEFAULT
) -> None:
    """Delete a version of a dataset with its files; refused while an unfinished job uses it.

    Only the same files can be pushed as this version again.
    """
    from dreadnode.datasets.jsonl import parse_ref

    with common.client() as client:
        deleted = client.delete_dataset(*parse_ref(dataset))
    say(f"deleted dataset {deleted.ref}: {deleted.bytes:,} bytes")
    common.out.record(deleted, views.DATASETS)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole if line.strip())
    if rest.strip():
        yield rest.decode()


def upload(
    client: ApiClient,
    source: Path,
    name: str | None = None,
    version: str | None = None,
    *,
    splits: Sequence[str] = (),
    kind: str | None = None,
) -> Dataset:
    """Store SOURCE, a file or a folder of splits, and report its name and version."""
    stored = client.upload_dataset(source, name, version, splits=splits, kind=kind)
    size = f"{count(stored.rows, 'row')}, {stored.bytes:,} bytes"
    if len(stored.splits) > 1:
        size = f"{size}, in {len(stored.splits)} splits"
    say(f"stored {source} as {stored.ref}: {size}")
    say(*(f"note: {show(note)}" for note in stored.notes))
    return stored
