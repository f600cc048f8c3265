"""Upload, list and read datasets."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import FileResponse

from app.datasets import service
from app.datasets.rows import RowCounter
from app.datasets.schemas import NAME, VERSION, Dataset, DatasetList, DatasetVersions
from app.datasets.tables import DatasetVersion
from app.deps import (
    AnyCaller,
    InDatabase,
    InSettings,
    InStore,
    OrgKey,
    OrgMember,
    OrgReader,
    ReadSession,
    check_org,
)
from app.errors import ERRORS, Forbidden, Invalid
from app.jobs.tables import Job

router = APIRouter(prefix="/org/{org}/datasets", responses=ERRORS, tags=["Datasets"])

Name = Annotated[str, Path(pattern=NAME, description="Lower case, at most 100 characters")]
Version = Annotated[str, Path(pattern=VERSION, description="Such as `1.0.0`; never changes")]
Page = Annotated[int, Query(ge=1, le=1_000_000)]
PageSize = Annotated[int, Query(ge=1, le=100)]

JSONL_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/x-ndjson": {"schema": {"type": "string", "format": "jsonl"}}},
    }
}


@router.put(
    "/{name}/{version}",
    status_code=201,
    responses={200: {"model": Dataset, "description": "The same rows were there already"}},
    openapi_extra=JSONL_BODY,
)
async def push_dataset(
    caller: OrgMember,
    name: Name,
    version: Version,
    request: Request,
    response: Response,
    database: InDatabase,
    store: InStore,
    settings: InSettings,
) -> Dataset:
    """Store a version: JSONL, one JSON object encoded as UTF-8 on each line."""
    if version == "latest":
        raise Invalid("`latest` is no version; name one such as `1.0.0`", "version")
    counter = RowCounter()
    async with store.receiving(
        request.stream(), settings.max_dataset_bytes, counter.feed
    ) as incoming:
        rows = counter.finish()
        async with database.writing() as session:
            found, new = await service.add_version(session, caller, name, version, incoming, rows)
    response.status_code = 201 if new else 200
    return view(found)


@router.get("")
async def list_datasets(
    caller: OrgReader, session: ReadSession, page: Page = 1, page_size: PageSize = 20
) -> DatasetList:
    """List datasets by name, each with its newest version."""
    found, total = await service.list_datasets(session, caller.org_id, page, page_size)
    return DatasetList(
        items=[view(each) for each in found], total=total, page=page, page_size=page_size
    )


@router.get("/{name}")
async def get_dataset(caller: OrgReader, name: Name, session: ReadSession) -> DatasetVersions:
    """Return a dataset with all its versions, newest first."""
    found = await service.list_versions(session, caller.org_id, name)
    return DatasetVersions(name=name, versions=[view(each) for each in found])


@router.get("/{name}/{version}")
async def get_dataset_version(
    org: OrgKey, caller: AnyCaller, name: Name, version: Version, session: ReadSession
) -> Dataset:
    """Return one version; the key of a job may read the versions that its job names."""
    check_org(caller, org)
    if caller.job_id is not None:
        job = await session.get_one(Job, caller.job_id)
        if {"name": name, "version": version} not in _named(job):
            raise Forbidden(f"The job of this key does not name `{name}@{version}`")
    return view(await service.get_version(session, caller.org_id, name, version))


@router.get(
    "/{name}/{version}/content",
    response_class=FileResponse,
    responses={200: {"content": {"application/x-ndjson": {}}, "description": "The rows"}},
)
async def get_content(
    org: OrgKey,
    caller: AnyCaller,
    name: Name,
    version: Version,
    database: InDatabase,
    store: InStore,
) -> FileResponse:
    """Return the rows of one version, byte for byte as they were pushed."""
    async with database.reading() as session:
        found = await get_dataset_version(org, caller, name, version, session)
    return FileResponse(
        store.path(found.sha256),
        media_type="application/x-ndjson",
        filename=f"{name}-{version}.jsonl",
        headers={"ETag": f'"{found.sha256}"'},
    )


def _named(job: Job) -> list[dict[str, str]]:
    single = ("dataset_ref", "prompt_dataset_ref", "eval_dataset_ref")
    refs = [job.config[key] for key in single if job.config.get(key)]
    return [*refs, *job.config.get("trajectory_dataset_refs", [])]


def view(found: DatasetVersion) -> Dataset:
    """Return what a client is shown of a version."""
    return Dataset(
        name=found.name,
        version=found.version,
        format=found.format,
        rows=found.rows,
        bytes=found.bytes,
        sha256=found.sha256,
        created_at=found.created_at,
        created_by=found.created_by,
    )
