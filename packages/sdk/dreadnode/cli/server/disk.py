"""`dn server disk`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from dreadnode.cli.output import Output, hint, say, table
from dreadnode.cli.server.backup import DatabaseUrl, DataDir, Json, run_service
from dreadnode.cli.units import byte_size
from dreadnode.errors import InputError


def disk(
    *,
    largest: Annotated[
        int, Parameter(help="Jobs and datasets to show, the largest first.", show_default=True)
    ] = 10,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json_output: Json = False,
) -> None:
    """Show what takes the space of a data directory, and what frees it.

    The first table is by kind of data, the second by job and dataset. A file that two of them share
    counts for both.
    """
    if largest < 0:
        raise InputError(f"`--largest` must be at least 0, not {largest}")
    used = run_service(["disk"], data_dir, database_url, "reading the data directory")
    used["holders"] = used["holders"][:largest]
    if json_output:
        Output(as_json=True).json(used)
        return
    out = Output()
    kinds = [
        [byte_size(each["bytes"]), each["kind"], each["how_to_free"]] for each in used["kinds"]
    ]
    out.text(*table(kinds, ["size", "kind", "how to free it"]))
    if used["holders"]:
        cells = [[byte_size(each["bytes"]), each["kind"], each["name"]] for each in used["holders"]]
        out.text("", *table(cells, ["size", "kind", "name"]))
    total, free = byte_size(used["bytes"]), byte_size(used["disk_free_bytes"])
    say(f"{total} in {used['data_dir']}; {free} free on its disk")
    if used["holders"]:
        first = used["holders"][0]
        hint(f"`{first['how_to_free']}` frees {byte_size(first['bytes'])}")
