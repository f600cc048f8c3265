"""Each call to the API, described and not made.

Path, body and the reading of the answer are values; `dreadnode.client` sends them, blocking or
awaiting. Every description takes the scope first, so that a client can turn it into a method.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from dreadnode.config import Scope
from dreadnode.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dreadnode.datafiles import Files
    from dreadnode.forms import Form
    from dreadnode.training.chat import ChatAnswer, ChatRequest
    from dreadnode.training.checkpoints import CheckpointList
    from dreadnode.training.jobs import (
        Artifacts,
        JobFiles,
        LogEntries,
        SftRequest,
        TrainingJob,
        TrainingJobPage,
    )
    from dreadnode.training.rl import RlRequest
    from dreadnode.webhooks import DeliveryList, NewWebhook, Webhook, WebhookList, WebhookRequest
    from dreadnode.wire import (
        Capability,
        CapabilityPage,
        Dataset,
        DatasetPage,
        DatasetVersions,
        Member,
        MemberList,
        MemberRequest,
        NewMember,
        NewToken,
        Organization,
        Token,
        TokenList,
        TokenRequest,
        User,
        Workspace,
    )

T = TypeVar("T")
CHAT_SECONDS = 600.0
"""Longer than any server lets a model think."""
Param = str | int | float | bool
CONVERSION_SECONDS = 330.0
"""Seconds that a server may take to read a file that was pushed."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read.

    Attributes:
        method: The HTTP method.
        path: The path below `/api/v1`.
        parse: Reads the body of a 2xx answer.
        params: The query.
        body: The body, if it is short.
        file: The body, if it is a file; opened anew for each attempt.
        form: The body, if it is several files.
        content_type: What the body is.
        headers: Further headers.
        seconds: How long its answer may take, where that is longer than a client waits for most.
        repeatable: Whether it may be sent again when no answer came: it asks and does not change,
            or the server recognises it the second time.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: Mapping[str, Param] = field(default_factory=dict)
    body: bytes | None = None
    file: Path | None = None
    form: Form | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    seconds: float | None = None


def get_user(_: Scope, /) -> Call[User]:
    """Whom the key stands for."""
    return _get("/user", _one("wire", "User"))


def list_organizations(_: Scope, /) -> Call[list[Organization]]:
    """The organizations that the key may see."""
    return _get("/user/organizations", _many("wire", "Organization"))


def list_workspaces(scope: Scope, /) -> Call[list[Workspace]]:
    """The workspaces of the organization."""
    return _get(f"{_organization(scope)}/ws", _many("wire", "Workspace"))


def create_token(scope: Scope, /, request: TokenRequest) -> Call[NewToken]:
    """Make a token for oneself; its secret is told this once."""
    return Call(
        "POST", f"{_organization(scope)}/tokens", _one("wire", "NewToken"), body=_body(request)
    )


def list_tokens(scope: Scope, /) -> Call[TokenList]:
    """The tokens of the organization that the key may see, without their secrets."""
    return _get(f"{_organization(scope)}/tokens", _one("wire", "TokenList"))


def revoke_token(scope: Scope, /, token_id: str) -> Call[Token]:
    """Make a token worthless, at once."""
    path = f"{_organization(scope)}/tokens/{_segment(token_id)}"
    return Call("DELETE", path, _one("wire", "Token"), repeatable=True)


def create_workspace(scope: Scope, /, key: str, name: str | None = None) -> Call[Workspace]:
    """Make a workspace in the organization."""
    body = json.dumps(_given(key=key, name=name)).encode()
    return Call("POST", f"{_organization(scope)}/ws", _one("wire", "Workspace"), body=body)


def list_members(scope: Scope, /) -> Call[MemberList]:
    """The members of the organization, by name."""
    return _get(f"{_organization(scope)}/members", _one("wire", "MemberList"))


def add_member(scope: Scope, /, request: MemberRequest) -> Call[NewMember]:
    """Make somebody a member, with a first token whose secret is told this once."""
    path = f"{_organization(scope)}/members"
    return Call("POST", path, _one("wire", "NewMember"), body=_body(request))


def set_role(scope: Scope, /, username: str, role: str) -> Call[Member]:
    """Give a member another role."""
    path = f"{_organization(scope)}/members/{_segment(username)}"
    body = json.dumps({"role": role}).encode()
    return Call("PATCH", path, _one("wire", "Member"), body=body, repeatable=True)


def remove_member(scope: Scope, /, username: str) -> Call[Member]:
    """Take a member out of the organization, and revoke their tokens."""
    path = f"{_organization(scope)}/members/{_segment(username)}"
    return Call("DELETE", path, _one("wire", "Member"))


def get_training_catalog(_: Scope, /, **filters: Param | None) -> Call[dict[str, Any]]:
    """The base models that the server knows, as it tells them; FILTERS are the query's."""
    return _get("/training/catalog", json.loads, _given(**filters))


def get_catalog_model(_: Scope, /, tinker_id: str, **options: Param | None) -> Call[dict[str, Any]]:
    """One base model, by its exact id."""
    return _get(f"/training/catalog/{quote(tinker_id)}", json.loads, _given(**options))


def push_dataset(scope: Scope, /, name: str, version: str, file: Path | Files) -> Call[Dataset]:
    """Store FILE, or the file of each split, as NAME@VERSION; the same bytes again change nothing.

    A path is a file of JSON lines; `dreadnode.datafiles.collect` finds files of other formats.
    """
    call = Call[Any](
        "PUT",
        f"{_organization(scope)}/datasets/{_segment(name)}/{_segment(version)}",
        _one("wire", "Dataset"),
        content_type="application/x-ndjson",
        seconds=CONVERSION_SECONDS,
        repeatable=True,
    )
    if isinstance(file, Path):
        return replace(call, file=file)
    from dreadnode.datafiles import MEDIA_TYPES, ONLY_SPLIT

    if list(file) == [ONLY_SPLIT]:
        only = file[ONLY_SPLIT]
        return replace(call, file=only.path, content_type=MEDIA_TYPES[only.format])
    from dreadnode.forms import Form

    form = Form({split: (each.path, f"{split}.{each.format}") for split, each in file.items()})
    return replace(call, form=form, content_type=form.content_type)


def list_datasets(scope: Scope, /, *, page: int = 1, page_size: int = 20) -> Call[DatasetPage]:
    """The organization's datasets."""
    params = {"page": page, "page_size": page_size}
    return _get(f"{_organization(scope)}/datasets", _one("wire", "DatasetPage"), params)


def get_dataset(scope: Scope, /, name: str) -> Call[DatasetVersions]:
    """A dataset with all its versions, newest first."""
    return _get(
        f"{_organization(scope)}/datasets/{_segment(name)}", _one("wire", "DatasetVersions")
    )


def get_dataset_version(scope: Scope, /, name: str, version: str) -> Call[Dataset]:
    """One version of a dataset."""
    path = f"{_organization(scope)}/datasets/{_segment(name)}/{_segment(version)}"
    return _get(path, _one("wire", "Dataset"))


def dataset_content(
    scope: Scope, /, name: str, version: str, *, split: str | None = None
) -> Call[bytes]:
    """The rows of a split as JSONL; of the only split, or of `train`, if none is named."""
    path = f"{_organization(scope)}/datasets/{_segment(name)}/{_segment(version)}/content"
    return _get(path, bytes, _given(split=split))


def push_capability(
    scope: Scope, /, name: str, version: str, prompt: str, *, description: str | None = None
) -> Call[Capability]:
    """Store a system prompt as NAME@VERSION; the same again changes nothing."""
    request = _type("wire", "CapabilityRequest")(prompt=prompt, description=description)
    return Call(
        "PUT",
        f"{_organization(scope)}/capabilities/{_segment(name)}/{_segment(version)}",
        _one("wire", "Capability"),
        body=_body(request),
        repeatable=True,
    )


def list_capabilities(
    scope: Scope, /, *, search: str | None = None, page: int = 1, limit: int = 20
) -> Call[CapabilityPage]:
    """The organization's capabilities, each by its newest version."""
    params = _given(search=search, page=page, limit=limit)
    return _get(f"{_organization(scope)}/capabilities", _one("wire", "CapabilityPage"), params)


def get_capability(scope: Scope, /, name: str) -> Call[Capability]:
    """The newest version of a capability."""
    path = f"{_organization(scope)}/capabilities/{_segment(name)}"
    return _get(path, _one("wire", "Capability"))


def get_capability_version(scope: Scope, /, name: str, version: str) -> Call[Capability]:
    """One version of a capability."""
    path = f"{_organization(scope)}/capabilities/{_segment(name)}/{_segment(version)}"
    return _get(path, _one("wire", "Capability"))


def create_training_job(
    scope: Scope, /, request: SftRequest | RlRequest, *, idempotency_key: str | None = None
) -> Call[TrainingJob]:
    """Submit a training job.

    The key makes a second sending of the same request give back the first job; a fresh one is made
    if none is given, so that the client may repeat the call when no answer came.
    """
    return Call(
        "POST",
        _jobs(scope),
        _one("training.jobs", "TrainingJob"),
        body=_body(request),
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        repeatable=True,
    )


def list_training_jobs(
    scope: Scope,
    /,
    *,
    page: int = 1,
    page_size: int = 20,
    status: str | None = None,
    backend: str | None = None,
    trainer_type: str | None = None,
    project_ref: str | None = None,
) -> Call[TrainingJobPage]:
    """The workspace's jobs, newest first."""
    params = _given(
        page=page,
        page_size=page_size,
        status=status,
        backend=backend,
        trainer_type=trainer_type,
        project_ref=project_ref,
    )
    return _get(_jobs(scope), _one("training.jobs", "TrainingJobPage"), params)


def get_training_job(scope: Scope, /, job_id: str) -> Call[TrainingJob]:
    """One job."""
    return _get(_job(scope, job_id), _one("training.jobs", "TrainingJob"))


def cancel_training_job(scope: Scope, /, job_id: str) -> Call[TrainingJob]:
    """Ask a job to stop; a running one saves a checkpoint first."""
    return Call("POST", f"{_job(scope, job_id)}/cancel", _one("training.jobs", "TrainingJob"))


def retry_training_job(scope: Scope, /, job_id: str) -> Call[TrainingJob]:
    """Make a new job that repeats a failed or cancelled one from its newest checkpoint."""
    return Call("POST", f"{_job(scope, job_id)}/retry", _one("training.jobs", "TrainingJob"))


def list_training_job_logs(
    scope: Scope,
    /,
    job_id: str,
    *,
    after: int | None = None,
    level: str | None = None,
    tail: int | None = None,
    query: str | None = None,
) -> Call[LogEntries]:
    """A job's log, oldest line first.

    Args:
        scope: Where the job is.
        job_id: The job.
        after: Only lines behind the one with this cursor.
        level: The least level.
        tail: Only so many lines, the last ones.
        query: Only lines that hold these words.
    """
    params = _given(after=after, level=level, tail=tail, query=query)
    return _get(f"{_job(scope, job_id)}/logs", _one("training.jobs", "LogEntries"), params)


def training_job_events(scope: Scope, /, job_id: str, *, after: int = 0) -> Call[bytes]:
    """What happens to a job, as a stream; `watch_training_job` reads it."""
    call = _get(f"{_job(scope, job_id)}/events", bytes, {"after": after})
    return replace(call, headers={"Accept": "text/event-stream"})


def get_training_job_artifacts(scope: Scope, /, job_id: str) -> Call[Artifacts]:
    """What a job has made, by name."""
    return _get(f"{_job(scope, job_id)}/artifacts", _one("training.jobs", "Artifacts"))


def list_training_job_files(scope: Scope, /, job_id: str) -> Call[JobFiles]:
    """The files that a job has stored, its adapter among them."""
    return _get(f"{_job(scope, job_id)}/files", _one("training.jobs", "JobFiles"))


def training_job_file(scope: Scope, /, job_id: str, path: str) -> Call[bytes]:
    """The bytes of one file of a job."""
    return _get(f"{_job(scope, job_id)}/files/{quote(path)}", bytes)


def list_training_job_checkpoints(scope: Scope, /, job_id: str) -> Call[CheckpointList]:
    """What a job has saved on the engine, oldest first."""
    path = f"{_job(scope, job_id)}/checkpoints"
    return _get(path, _one("training.checkpoints", "CheckpointList"))


def chat_with_training_job(scope: Scope, /, job_id: str, request: ChatRequest) -> Call[ChatAnswer]:
    """The next message of a conversation, sampled from the job's weights."""
    return Call(
        "POST",
        f"{_job(scope, job_id)}/chat",
        _one("training.chat", "ChatAnswer"),
        body=_body(request),
        seconds=CHAT_SECONDS,
    )


def create_webhook(scope: Scope, /, request: WebhookRequest) -> Call[NewWebhook]:
    """Have an address told of the workspace's jobs; its secret is told this once."""
    return Call("POST", _webhooks(scope), _one("webhooks", "NewWebhook"), body=_body(request))


def list_webhooks(scope: Scope, /) -> Call[WebhookList]:
    """The workspace's webhooks, and how their deliveries fare."""
    return _get(_webhooks(scope), _one("webhooks", "WebhookList"))


def delete_webhook(scope: Scope, /, webhook_id: str) -> Call[Webhook]:
    """Delete a webhook, with what it is still owed."""
    path = f"{_webhooks(scope)}/{_segment(webhook_id)}"
    return Call("DELETE", path, _one("webhooks", "Webhook"))


def list_webhook_deliveries(
    scope: Scope, /, webhook_id: str, *, limit: int = 100
) -> Call[DeliveryList]:
    """The newest messages to a webhook, newest first."""
    path = f"{_webhooks(scope)}/{_segment(webhook_id)}/deliveries"
    return _get(path, _one("webhooks", "DeliveryList"), {"limit": limit})


def _organization(scope: Scope) -> str:
    if not scope.organization:
        raise ConfigError(
            "no organization is set; use `--organization`, DREADNODE_ORGANIZATION or `dn login`"
        )
    return f"/org/{_segment(scope.organization)}"


def _jobs(scope: Scope) -> str:
    return f"{_workspace(scope)}/training/jobs"


def _webhooks(scope: Scope) -> str:
    return f"{_workspace(scope)}/webhooks"


def _workspace(scope: Scope) -> str:
    organization = _organization(scope)
    if not scope.workspace:
        raise ConfigError(
            "no workspace is set; use `--workspace`, DREADNODE_WORKSPACE or `dn login`"
        )
    return f"{organization}/ws/{_segment(scope.workspace)}"


def _job(scope: Scope, job_id: str) -> str:
    return f"{_jobs(scope)}/{_segment(job_id)}"


def _segment(value: str) -> str:
    """Quote VALUE so that it stays one segment of a path, whatever stands in it."""
    # A server reads an empty segment and these two as steps through the path, even when quoted.
    if value in ("", ".", ".."):
        raise InputError(f"`{value}` cannot be the name or the id of anything")
    return quote(value, safe="")


def _get(
    path: str, parse: Callable[[bytes], T], params: Mapping[str, Param] | None = None
) -> Call[T]:
    return Call("GET", path, parse, params or {}, repeatable=True)


def _given(**params: Param | None) -> dict[str, Param]:
    return {name: value for name, value in params.items() if value is not None}


def _body(request: BaseModel) -> bytes:
    return request.model_dump_json(exclude_none=True).encode()


# The types are looked up when an answer has come, and not when this module is imported: pydantic
# takes longer to import than most commands take to run.


def _type(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(f"dreadnode.{module}"), name)


def _one(module: str, name: str) -> Callable[[bytes], Any]:
    return lambda body: _type(module, name).model_validate_json(body)


def _many(module: str, name: str) -> Callable[[bytes], Any]:
    def parse(body: bytes) -> Any:
        kind, items = _type(module, name), json.loads(body)
        return [kind.model_validate(item) for item in items]

    return parse
