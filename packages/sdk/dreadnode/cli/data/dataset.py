"""`dn dataset push | list | get | read`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import count, hint, say
from dreadnode.errors import InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.wire import Dataset

Format = Literal["jsonl", "json", "csv", "parquet"]

app = App(name="dataset", help="Store datasets and look at them.", version_flags=[])


@app.command
def push(
    source: Annotated[
        Path,
        Parameter(
            help="A .jsonl, .json, .csv or .parquet file, which becomes the split `train`; or a "
            "folder of such files, each named for its split. Text may be compressed: .gz or .zst."
        ),
    ],
    ref: Annotated[
        str | None,
        Parameter(help="NAME@VERSION; made of the source's name and content if not given."),
    ] = None,
    /,
    *,
    split: Annotated[
        tuple[str, ...],
        Parameter(help="A further split, as SPLIT=FILE; may be given again."),
    ] = (),
    format: Annotated[  # noqa: A002 - the flag's own name
        Format | None,
        Parameter(help="Format of the files, if their names do not show it."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Store a file, or a file for each split, as a version of a dataset, which never changes.

    JSONL has one JSON object on each line; JSON is an array of objects, or JSONL; CSV has a
    header; Parquet may have nested columns. To push the same content again changes nothing; other
    content needs another version.
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
    split: Annotated[
        str | None, Parameter(help="Which split; the only one, or `train`, if not given.")
    ] = None,
    rows: Annotated[int | None, Parameter(help="Only so many rows, the first ones.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Show the rows of a dataset as jobs read them: JSONL, for every pushed format."""
    from dreadnode.datasets.jsonl import parse_ref
    from dreadnode.http.calls import dataset_content

    if rows is not None and rows < 1:
        raise InputError(f"`--rows` must be above 0, and is {rows}")
    with common.client() as client:
        content = client.stream(dataset_content(client.scope, *parse_ref(dataset), split=split))
        for line in islice(_lines(content), rows):
            common.out.text(line)


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
    """Store SOURCE, a file or a folder of splits, and say under which name.

    Without a name and version, the source's own name is taken, and a version made of its content:
    the same content is the same version.
    """
    from dreadnode.datasets.files import collect, default_ref

    files = collect(source, splits, kind)
    if name is None or version is None:
        name, version = default_ref(source, files)
    stored = client.push_dataset(name, version, files)
    what = f"{count(stored.rows, 'row')}, {stored.bytes:,} bytes"
    if len(stored.splits) > 1:
        what = f"{what}, in {len(stored.splits)} splits"
    say(f"stored {source} as {stored.ref}: {what}")
    for note in stored.notes:
        say(f"note: {note}")
    return stored
