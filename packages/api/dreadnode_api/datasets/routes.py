"""Routes to push, list, read and delete datasets."""

from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import FileResponse

from dreadnode_api import audit
from dreadnode_api.auth.callers import Caller
from dreadnode_api.auth.deps import AnyCaller, OrgMember, OrgReader, OrgSlug, check_org
from dreadnode_api.datasets import service
from dreadnode_api.datasets.deletion import dataset_refs, delete_version
from dreadnode_api.datasets.push import MAX_SPLITS, MEDIA_TYPES, media_type, received
from dreadnode_api.datasets.row_check import RowCheck
from dreadnode_api.datasets.schemas import Dataset, DatasetList, DatasetVersions
from dreadnode_api.errors import ERRORS, Forbidden, Invalid
from dreadnode_api.http.deps import InDatabase, InSettings, InStore, ReadSession, in_application
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.patterns import NAME, SPLIT, VERSION
from dreadnode_api.http.query_parameters import IncludePublic
from dreadnode_api.models.datasets import DatasetVersion
from dreadnode_api.models.jobs import Job
from dreadnode_api.uploads import InUploadReader
from dreadnode_api.versions import newest_versions

router = APIRouter(prefix="/org/{org}/datasets", responses=ERRORS, tags=["Datasets"])

Name = Annotated[str, Path(pattern=NAME, description="Lower case, at most 100 characters")]
Version = Annotated[str, Path(pattern=VERSION, description="Such as `1.0.0`; never changes")]
Page = Annotated[int, Query(ge=1, le=1_000_000)]
PageSize = Annotated[int | None, Query(ge=1, le=100, description="20 if left out")]
Limit = Annotated[
    int | None,
    Query(
        ge=1,
        le=200,
        description="The same as `page_size`, for clients of version 2; the smaller one counts",
    ),
]


InRowCheck = Annotated[RowCheck, in_application("row_check")]

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "format": "jsonl"}},
            "application/json": {
                "schema": {"type": "array", "minItems": 1, "items": {"type": "object"}}
            },
            "text/csv": {"schema": {"type": "string", "format": "csv"}},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "parquet"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": MAX_SPLITS,
                    "propertyNames": {"pattern": SPLIT},
                    "additionalProperties": {"type": "string", "format": "jsonl-file"},
                }
            },
        },
    }
}


@router.put(
    "/{name}/{version}",
    status_code=201,
    responses={200: {"model": Dataset, "description": "The version existed with the same files"}},
    openapi_extra=BODY,
)
async def push_dataset(
    caller: OrgMember,
    name: Name,
    version: Version,
    request: Request,
    response: Response,
    database: InDatabase,
    store: InStore,
    reader: InUploadReader,
    row_check: InRowCheck,
    settings: InSettings,
) -> Dataset:
    """Store a version: one file, which becomes the split `train`, or a part for each split.

    The type of the body, or of a part, names its format, as does the name of a part's file:
    JSONL, a JSON array of objects, CSV with a header, or Parquet. What is of no known type is read
    as JSONL. Jobs read the rows as JSONL, one JSON object encoded as UTF-8 on each line.
    """
    if version == "latest":
        raise Invalid("`latest` is not a version; name one such as `1.0.0`", "version")
    limit = settings.max_dataset_bytes
    async with received(request, caller.org_id, store, reader, limit) as splits:
        notes = await while_connected(request, row_check.check(caller.org_id, splits))
        async with database.writing() as session:
            found, new = await service.add_version(session, settings, caller, name, version, splits)
        response.status_code = 201 if new else 200
        return Dataset.of(found, notes=notes)


@router.get("")
async def list_datasets(
    caller: OrgReader,
    session: ReadSession,
    page: Page = 1,
    page_size: PageSize = None,
    limit: Limit = None,
    search: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    sort_by: Literal["name", "created_at"] = "name",
    sort_dir: Literal["asc", "desc"] = "asc",
    _include_public: IncludePublic = False,
) -> DatasetList:
    """List datasets, each with its newest version."""
    size = min((given for given in (page_size, limit) if given is not None), default=20)
    found, total = await newest_versions(
        session,
        DatasetVersion,
        caller.org_id,
        search,
        page,
        size,
        sort_by=sort_by,
        descending=sort_dir == "desc",
    )
    return DatasetList(
        items=[Dataset.model_validate(each) for each in found],
        total=total,
        page=page,
        page_size=size,
    )


@router.get("/{name}")
async def get_dataset(caller: OrgReader, name: Name, session: ReadSession) -> DatasetVersions:
    """Return a dataset with all its versions, newest first."""
    found = await service.list_versions(session, caller.org_id, name)
    return DatasetVersions(name=name, versions=[Dataset.model_validate(each) for each in found])


@router.get("/{name}/{version}")
async def get_dataset_version(
    org: OrgSlug, caller: AnyCaller, name: Name, version: Version, session: ReadSession
) -> Dataset:
    """Return one version; the token of a job can read the versions that its job names."""
    return Dataset.model_validate(await _readable(org, caller, name, version, session))


@router.delete("/{name}/{version}")
async def delete_dataset_version(
    caller: OrgMember, name: Name, version: Version, database: InDatabase, store: InStore
) -> Dataset:
    """Delete one version with its files, and return it; jobs that have ended keep its name.

    A version that an unfinished job uses is not deleted. Only the same files can be pushed as this
    version again.
    """
    async with database.writing() as session:
        found, digests = await delete_version(session, caller.org_id, name, version)
        deleted = Dataset.model_validate(found)
    # After the commit, so that no row refers to a file that is gone.
    await to_thread.run_sync(store.delete_all_unused, digests)
    audit.record(caller.user_id, caller.org_id, "deleted the dataset", f"{name}@{version}")
    return deleted


@router.get(
    "/{name}/{version}/content",
    response_class=FileResponse,
    responses={200: {"content": {each: {} for each in MEDIA_TYPES}, "description": "The rows"}},
)
async def get_content(
    org: OrgSlug,
    caller: AnyCaller,
    name: Name,
    version: Version,
    database: InDatabase,
    store: InStore,
    split: Annotated[
        str | None,
        Query(pattern=SPLIT, description="The split; by default the only one, or `train`"),
    ] = None,
    pushed: Annotated[bool, Query(description="Return the pushed file instead of JSONL")] = False,
) -> FileResponse:
    """Return the rows of a split as JSONL; a pushed JSONL file is returned byte for byte."""
    async with database.reading() as session:
        found = await _readable(org, caller, name, version, session)
    chosen = service.split_of(found, split)
    sha256 = chosen.sha256 if pushed else chosen.content_sha256
    kind = chosen.format if pushed else "jsonl"
    part = "" if len(found.splits) == 1 else f"-{chosen.name}"
    return FileResponse(
        store.path(sha256),
        media_type=media_type(kind),
        filename=f"{name}-{version}{part}.{kind}",
        headers={"ETag": f'"{sha256}"'},
    )


async def _readable(
    org: str, caller: Caller, name: str, version: str, session: AsyncSession
) -> DatasetVersion:
    """Return a version that the caller may read: of its organization, or of its job.

    Raises:
        Forbidden: the caller is the sandbox of a job that does not use it.
    """
    check_org(caller, org)
    if caller.job_id is not None:
        job = await session.get_one(Job, caller.job_id)
        if (name, version) not in dataset_refs(job.config):
            raise Forbidden(f"The job of this token does not use `{name}@{version}`")
    return await service.get_version(session, caller.org_id, name, version)
