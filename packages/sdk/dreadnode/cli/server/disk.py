"""`dn server disk`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from dreadnode.cli.output import Output, fitted_table, hint, say
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
    out.text(*_table(used["kinds"], "kind"))
    if used["holders"]:
        out.text("", *_table(used["holders"], "name"))
    total, free = byte_size(used["bytes"]), byte_size(used["disk_free_bytes"])
    say(f"{total} in {used['data_dir']}; {free} free on its disk")
    if used["holders"]:
        first = used["holders"][0]
        hint(f"`{first['how_to_free']}` frees {byte_size(first['bytes'])}")


def _table(items: list[dict[str, Any]], name: str) -> list[str]:
    cells = [[byte_size(each["bytes"]), each[name], each["how_to_free"]] for each in items]
    return list(fitted_table(cells, ["size", name, "how to free it"], {"how to free it"}))
