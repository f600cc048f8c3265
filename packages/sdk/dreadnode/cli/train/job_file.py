"""`dn train init | submit | clone`: jobs as files, and copies of jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.data.dataset import upload
from dreadnode.cli.output import count, hint, say
from dreadnode.cli.train.arguments import Yes, with_starting_weights
from dreadnode.cli.train.flags import RehearseFirst, RehearseSteps
from dreadnode.cli.train.jobs import Job
from dreadnode.cli.train.price import confirm
from dreadnode.cli.train.sft import Wait, create, submitted
from dreadnode.errors import UnusableFile
from dreadnode.lazy_types import evaluations

if TYPE_CHECKING:
    from dreadnode.http.references import AnyJobRequest
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.job_files.job_file import JobFile
    from dreadnode.training.jobs import TrainingJob


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Changes:
    """The flags that change a described job."""

    set: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            help="Set PATH=VALUE, for example `config.learning_rate=2e-4`. A value that is not "
            "TOML is a string. May be repeated.",
        ),
    ] = ()
    unset: Annotated[
        tuple[str, ...],
        Parameter(
            help="Reset a setting to its default, for example `config.steps`. May be repeated."
        ),
    ] = ()
    rehearse: Annotated[
        bool | None,
        Parameter(
            negative="--no-rehearse",
            help="Train a small stand-in model instead: same data, config and loop.",
        ),
    ] = None

    def applied(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return DOCUMENT with the changes."""
        from dreadnode.job_files.job_file import changed

        document = changed(document, self.set, self.unset)
        return document if self.rehearse is None else {**document, "rehearse": self.rehearse}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Submission(Changes):
    """The flags that change a described job and say how it is submitted."""

    rehearse_first: RehearseFirst = False
    rehearse_steps: RehearseSteps = None
    wait: Wait = False
    yes: Yes = False

    def applied(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return DOCUMENT with the changes."""
        document = super().applied(document)
        if self.rehearse_first:
            document["rehearse_first"] = True
        if self.rehearse_steps is not None:
            document["rehearse_steps"] = self.rehearse_steps
        return document


NO_CHANGES = Changes()
AS_IT_IS = Submission()
JobFilePath = Annotated[Path, Parameter(help="A job file: `dn train init` writes one.")]


def init(
    kind: Annotated[Literal["sft", "rl", "eval"], Parameter(help="What kind of job.")],
    file: Annotated[Path, Parameter(help="Where to.", show_default=True)] = Path("job.toml"),
    /,
    *,
    model: Annotated[
        str | None,
        Parameter(help="A base model: see `dn train catalog`.", completer=model_ids),
    ] = None,
    dataset: Annotated[
        str | None,
        Parameter(help="NAME@VERSION, a file or a folder; an example is written if not given."),
    ] = None,
) -> None:
    """Write a job file with every setting: its help, its bounds and its default.

    Without `--dataset`, a few example rows are written beside it, so that the job can be submitted
    unchanged. Existing files are never overwritten.
    """
    from dreadnode.job_files.template import MODEL, ROWS, template

    name, rows = ROWS[kind]
    _write(file, template(kind, model=model or MODEL, dataset=dataset or name))
    say(f"wrote {file}")
    example = file.with_name(name)
    if dataset is None and not example.exists():
        _write(example, "".join(f"{json.dumps(row)}\n" for row in rows))
        say(f"wrote {example}: {count(len(rows), 'row')} that show the shape; put yours there")
    rehearse = "" if kind == "eval" else " --rehearse"
    hint(f"`dn train submit {file}{rehearse}` tries it out")


def submit(
    file: JobFilePath, /, *, submission: Submission = AS_IT_IS, common: Common = DEFAULT
) -> None:
    """Submit the job that a file describes.

    A setting that is unknown or of the wrong kind is refused by its path, before anything is sent;
    data that the file names by a path is stored first.
    """
    with requested_by_file(file, submission, common) as (client, request):
        create(client, request, common, yes=submission.yes, wait=submission.wait)


@contextmanager
def requested_by_file(
    file: Path, changes: Changes, common: Common
) -> Iterator[tuple[ApiClient, AnyJobRequest]]:
    """Yield a client and the request that a job file describes, with the changes of flags."""
    from dreadnode.job_files import job_file as jobfile

    described = jobfile.parse(changes.applied(jobfile.read(file)), str(file), file.parent)
    with common.client() as client:
        yield client, _sent(client, described)


def clone(job: Job, /, *, submission: Submission = AS_IT_IS, common: Common = DEFAULT) -> None:
    """Submit a copy of a job with changes, and show what differs.

    All settings of the old job are taken over, those that were defaults included.
    """
    from dreadnode.job_files import job_file as jobfile

    with common.client() as client:
        old = client.get_training_job(client.find_training_job(job))
        described = jobfile.parse(submission.applied(_document(old)), f"job {job}", Path())
        request = _sent(client, described)
        confirm(client, request, yes=submission.yes)
        new = client.create_training_job(request)
        say(*(_differences(old, new) or ["nothing is different"]))
        submitted(client, new, common, wait=submission.wait)


def _sent(client: ApiClient, described: JobFile) -> AnyJobRequest:
    """Return the request of a job, after the upload of what it names by a path."""
    request = described.request(lambda path: upload(client, path).ref)
    if isinstance(request, evaluations.EvalRequest):
        return request
    return with_starting_weights(client, request)


def _document(job: TrainingJob) -> dict[str, Any]:
    """Return JOB as the request that would create it."""
    config = {name: value for name, value in job.config.items() if value is not None}
    document: dict[str, Any] = {
        "trainer_type": job.trainer_type,
        "backend": job.backend,
        "model": job.model,
        "rehearse": job.rehearsal,
        "tags": job.tags,
        "name": job.name,
        "project_ref": job.project_ref,
        "run_ref": job.run_ref,
    }
    if job.trainer_type == "eval":
        # Its models are in the config.
        del document["model"], document["rehearse"]
    capability = job.capability
    if capability is not None and capability.name != "none":
        document["capability_ref"] = {"name": capability.name, "version": capability.version}
        # It is the capability's.
        config.pop("system_prompt", None)
    return {**{k: v for k, v in document.items() if v is not None}, "config": config}


def _differences(old: TrainingJob, new: TrainingJob) -> list[str]:
    """Return a line for each setting in which the jobs differ, defaults included."""
    before, after = dict(_flat(_document(old))), dict(_flat(_document(new)))
    return [
        f"{path}: {before.get(path, 'not set')} -> {after.get(path, 'not set')}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping) and set(value) == {"name", "version"}:
            yield f"{above}{name}", f"{value['name']}@{value['version']}"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            text = json.dumps(value, ensure_ascii=False)
            yield f"{above}{name}", text if len(text) <= 80 else f"{text[:77]}…"


def _write(path: Path, text: str) -> None:
    """Write a new file."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UnusableFile(f"{path} already exists; name another file") from None
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror}") from error
