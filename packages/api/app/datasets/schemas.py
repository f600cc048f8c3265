"""What the routes of datasets answer."""

from app.schemas import Moment, Response

NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"
VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$"


class Dataset(Response):
    """One immutable version of a dataset."""

    name: str
    version: str
    format: str
    rows: int
    bytes: int
    sha256: str
    created_at: Moment
    created_by: str | None


class DatasetList(Response):
    """The newest version of each dataset, by name."""

    items: list[Dataset]
    total: int
    page: int
    page_size: int


class DatasetVersions(Response):
    """A dataset with all its versions, newest first."""

    name: str
    versions: list[Dataset]
