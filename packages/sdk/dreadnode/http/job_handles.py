"""Which job a handle means: a start of its id, its name, or `last`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from dreadnode.training.jobs import TrainingJobPage


def only_job(found: TrainingJobPage, handle: str) -> str:
    """Return the id of the only job in FOUND, the jobs that match HANDLE.

    Raises:
        NotFoundError: There is no job.
        InputError: There are several.
    """
    if not found.items:
        raise NotFoundError(
            404,
            "you have no job in this workspace yet"
            if handle == "last"
            else f"no job in this workspace has the id or the name `{handle}`; see `dn train list`",
        )
    if found.total > 1 and handle != "last":
        ids = ", ".join(f"`{each.id}`" for each in found.items)
        more = " …" if found.total > len(found.items) else ""
        raise InputError(f"`{handle}` means {found.total} jobs: {ids}{more}; use the id of one")
    return found.items[0].id
