"""Datasets: versions and splits, rows as stored and as rendered, and the jobs that use them."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any

from anyio import to_thread
from app.training.catalog import TINKER_MODELS
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from dreadnode_api.console import job_form
from dreadnode_api.console.deps import Filter, MemberPage, ReaderPage
from dreadnode_api.console.layout import redirect
from dreadnode_api.datasets import service
from dreadnode_api.datasets.routes import Name, Version
from dreadnode_api.datasets.usage import jobs_using
from dreadnode_api.http.deps import InStore, ReadSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.patterns import SPLIT
from dreadnode_api.models.datasets import DatasetVersion
from dreadnode_api.training import preflight_report
from dreadnode_api.training.deps import InServices
from dreadnode_api.versions import newest_versions

router = APIRouter(prefix="/ws/{ws}/datasets")

PAGE_SIZE = 50
ROWS = 25
LONGEST = 2000
"""Characters of a field that are shown."""
JOBS = 20
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]
SplitFilter = Annotated[str | None, Query(pattern=SPLIT)]
Row = Annotated[int, Query(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it is stored: its number, and its fields as text."""

    number: int
    fields: Mapping[str, str]


@router.get("")
async def datasets(
    page: ReaderPage, session: ReadSession, search: Filter = None, number: PageNumber = 1
) -> Response:
    """Show the datasets of the organization."""
    found, total = await newest_versions(
        session, DatasetVersion, page.scope.org_id, search, number, PAGE_SIZE
    )
    has_more = number * PAGE_SIZE < total
    return page.render(
        "dataset_rows.html" if page.is_fragment else "datasets.html",
        found=found,
        total=total,
        search=search,
        before=page.url("datasets", search=search, number=number - 1) if number > 1 else None,
        after=page.url("datasets", search=search, number=number + 1) if has_more else None,
    )


@router.get("/{name}")
async def dataset(page: ReaderPage, name: Name, session: ReadSession) -> Response:
    """Go to the newest version of a dataset."""
    found = await service.list_versions(session, page.scope.org_id, name)
    return redirect(page.url(f"datasets/{name}/{found[0].version}"))


@router.get("/{name}/{version}")
async def version(
    page: ReaderPage,
    name: Name,
    version: Version,
    session: ReadSession,
    store: InStore,
    split: SplitFilter = None,
    row: Row = 1,
    at: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> Response:
    """Show a version with the rows of a split from byte AT on, where row ROW begins."""
    found = await service.get_version(session, page.scope.org_id, name, version)
    versions = await service.list_versions(session, page.scope.org_id, name)
    chosen = service.split_of(found, split or found.splits[0].name)
    path = store.path(chosen.content_sha256)
    rows, end = await to_thread.run_sync(read_rows, path, at, row)
    here = f"datasets/{name}/{version}"
    last = row + len(rows)
    return page.render(
        "dataset.html",
        found=found,
        versions=versions,
        chosen=chosen,
        rows=rows,
        here=here,
        first=page.url(here, split=chosen.name) if at else None,
        more=page.url(here, split=chosen.name, row=last, at=end) if end else None,
        models=[model for model in TINKER_MODELS if model.status == "active"],
    )


def read_rows(path: FilePath, at: int, number: int) -> tuple[list[StoredRow], int | None]:
    """Return the rows of a JSONL file from byte AT on, and where the next ones begin, if any."""
    rows: list[StoredRow] = []
    with path.open("rb") as file:
        file.seek(at)
        while len(rows) < ROWS and (line := file.readline()):
            if line.strip():
                rows.append(StoredRow(number + len(rows), _fields(line)))
        end = file.tell()
        return rows, end if file.readline().strip() else None


def _fields(line: bytes) -> Mapping[str, str]:
    text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").strip()
    # A row that is nested very deeply can be read and not be written, depending on Python.
    with suppress(ValueError, RecursionError):
        found: Any = json.loads(text)
        if isinstance(found, dict):
            return {name[:100]: _shown(value) for name, value in found.items()}
    return {"": _shown(text)}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


@router.get("/{name}/{version}/jobs")
async def jobs(page: ReaderPage, name: Name, version: Version, session: ReadSession) -> Response:
    """Show the newest jobs of the workspace that use a version."""
    await service.get_version(session, page.scope.org_id, name, version)
    found = await jobs_using(session, page.scope.workspace_id, name, version, JOBS)
    return page.render("dataset_jobs.html", jobs=found, most=JOBS)


@router.get("/{name}/{version}/rendered")
async def rendered(
    page: MemberPage,
    name: Name,
    version: Version,
    services: InServices,
    model: Annotated[str, Query(min_length=1, max_length=200)],
    split: SplitFilter = None,
    row: Row = 1,
    rehearse: Annotated[bool, Field()] = False,
) -> Response:
    """Render a row for a model, as a supervised job on it would."""
    values = {
        "trainer_type": "sft",
        "model": model,
        "dataset_ref": f"{name}@{version}",
        **({"split": split} if split else {}),
        **({"mode": "rehearse"} if rehearse else {}),
    }
    request = job_form.request_of(values)
    found = await while_connected(
        page.request, preflight_report.report(page.scope, request, services=services, show=row)
    )
    return page.render("dataset_rendered.html", shown=found.report["shown"], found=found)
