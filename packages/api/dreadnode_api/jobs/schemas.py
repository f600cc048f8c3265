"""Responses about jobs that several packages share."""

from dreadnode_api.http.schemas import Response


class JobFileView(Response):
    """A file that a job has stored."""

    path: str
    bytes: int
    sha256: str


class JobFileList(Response):
    """The files of a job, by path."""

    items: list[JobFileView]
