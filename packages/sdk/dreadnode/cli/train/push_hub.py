"""`dn train push-hub`: a job's adapter, or an export, in a repository of a model hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say
from dreadnode.cli.train.jobs import FINAL, Weights
from dreadnode.errors import InputError


def push_hub(
    source: Annotated[str, Parameter(help="A job's id or name, or the folder of an export.")],
    repository: Annotated[str, Parameter(help="Repository of the hub: `USER/NAME`.")],
    /,
    *,
    private: Annotated[bool, Parameter(help="Create the repository as a private one.")] = False,
    dry_run: Annotated[
        bool, Parameter(help="List the files that would be uploaded, and send nothing.")
    ] = False,
    weights: Weights = FINAL,
    common: Common = DEFAULT,
) -> None:
    """Upload a job's adapter, or the folder of an export, to the Hugging Face hub.

    It needs a token of the hub (HF_TOKEN, or `hf auth login`) and `pip install
    "dreadnode-training[hub]"`. An existing repository gets a new commit.
    """
    weights.refuse_two_choices()
    from dreadnode.local_server.hub import check_repository, push_folder, require_token

    check_repository(repository)
    if not dry_run:
        require_token()
    with _folder(source, weights, common) as folder:
        files = [
            {"path": str(file.relative_to(folder)), "bytes": file.stat().st_size}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        for file in files:
            say(f"{file['path']}  {file['bytes']:,} bytes")
        address = None if dry_run else push_folder(folder, repository, private=private)
    if common.json:
        common.out.json({"repository": repository, "url": address, "files": files})
    elif address is None:
        say(f"nothing was sent to {repository} (`--dry-run`)")
    else:
        common.out.text(address)


@contextmanager
def _folder(source: str, weights: Weights, common: Common) -> Iterator[Path]:
    """Return the folder to upload: SOURCE itself, or the adapter of the job that it names."""
    if Path(source).is_dir():
        if weights != FINAL:
            raise InputError("`--best` and `--checkpoint` choose weights of a job, not of a folder")
        yield Path(source)
        return
    with common.client() as client, tempfile.TemporaryDirectory(prefix="dn-push-") as temporary:
        job = client.find_training_job(source)
        yield client.download_adapter(
            job, temporary, checkpoint=weights.checkpoint, best=weights.best
        )
