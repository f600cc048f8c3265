"""The catalog over HTTP, answered from prepared bytes.

The catalog does not change while the process runs, so an answer is made once for each query and
then sent as it is. `Prepared` sends it before FastAPI is reached: who asks is checked there by the
same authenticator, with the same cache; whatever is not plain goes on to the routes below.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from app.training.catalog import (
    CatalogQueryError,
    TrainingModel,
    get_training_model,
)
from fastapi import APIRouter, Path, Query, Request
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dreadnode_api.auth.callers import Authenticator
from dreadnode_api.auth.deps import UserCaller
from dreadnode_api.catalog.schemas import (
    CatalogQuery,
    TrainingCatalogEntry,
    TrainingCatalogResponse,
    ViewQuery,
)
from dreadnode_api.catalog.view import entry, expansions, page
from dreadnode_api.engine_client import Capabilities, EngineClient
from dreadnode_api.errors import ERRORS, ApiError, Invalid, NotFound
from dreadnode_api.http.deps import InEngine
from dreadnode_api.training.checks import unknown_model

router = APIRouter(prefix="/training/catalog", responses=ERRORS, tags=["Training catalog"])

# Any text is looked up. OpenAPI knows no slashes in a parameter of the path, though, so there the
# slash of an id is written as `%2F`; this server takes both.
TinkerId = Annotated[
    str,
    Path(
        max_length=200,
        description="A base or an extended id, slash included",
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._:%-]*$"},
    ),
]
_KEPT = 256
_LONGEST_QUERY = 512
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The answer named by `If-None-Match` still holds"}
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of an answer, and the headers that go with them, both as ASGI sends them."""

    body: bytes
    etag: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Answer":
        """Prepare DATA; its entity tag is a digest of its bytes."""
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
        headers = (
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"etag", etag),
            (b"cache-control", b"private, no-cache"),
        )
        return cls(body, etag, headers)

    def matches(self, condition: bytes) -> bool:
        """Return whether the value of an `If-None-Match` names this answer."""
        tags = (tag.strip().removeprefix(b"W/") for tag in condition.split(b","))
        return any(tag in (self.etag, b"*") for tag in tags)


class Answers:
    """The prepared answers that were asked for last, by path and query."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._answers: OrderedDict[tuple[str, bytes], Answer] = OrderedDict()

    def find(self, scope: Scope) -> Answer | None:
        """Return the answer prepared for what SCOPE asks."""
        return self._answers.get((scope["path"], scope["query_string"]))

    def keep(self, scope: Scope, answer: Answer) -> None:
        """Keep ANSWER for whoever asks the same, and let the oldest one go."""
        if len(scope["query_string"]) <= _LONGEST_QUERY:
            self._answers[scope["path"], scope["query_string"]] = answer
            if len(self._answers) > self._kept:
                self._answers.popitem(last=False)


class Prepared:
    """Sends a prepared answer to a caller who may read it; all else goes on to the routes."""

    def __init__(self, app: ASGIApp, answers: Answers, authenticator: Authenticator) -> None:
        self.app = app
        self._answers = answers
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "GET":
            answer = self._answers.find(scope)
            if answer is not None and await self._may_read(scope):
                await _send(answer, scope, send)
                return
        await self.app(scope, receive, send)

    async def _may_read(self, scope: Scope) -> bool:
        try:
            caller = await self._authenticator.caller(Headers(scope=scope))
        except ApiError:
            return False
        return caller.role is not None and not caller.ended


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    for name, value in scope["headers"]:
        if name == b"if-none-match" and answer.matches(value):
            headers = [header for header in answer.headers if not header[0].startswith(b"content-")]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
    start = {"type": "http.response.start", "status": 200, "headers": list(answer.headers)}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


class PreparedResponse(Response):
    """A prepared answer, as a route returns it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, or that it has not changed."""
        await _send(self._answer, scope, send)


@router.get(
    "",
    response_model=TrainingCatalogResponse,
    responses=_NOT_MODIFIED,
    summary="Browse supported training base models",
)
async def list_training_models(
    request: Request,
    caller: UserCaller,
    engine: InEngine,
    query: Annotated[CatalogQuery, Query()],
) -> Response:
    """List base models accepted by hosted Tinker training jobs.

    This is the source of truth for what you can pass as `--model` on `dn train sft` and
    `dn train rl`.
    """
    try:
        expand = expansions(query.expand)
        found = query.find()
    except CatalogQueryError as error:
        raise _refused(error) from None
    data = page(found, expand, facets=query.facets)
    if "available" not in expand:
        return _prepared(request, data)
    known, data["engine"] = await _ask(engine)
    for model, shown in zip(found.models, data["models"], strict=True):
        _fill_in(shown, model, known)
    return _fresh(data)


@router.get("/{tinker_id:path}", response_model=TrainingCatalogEntry, responses=_NOT_MODIFIED)
async def get_catalog_model(
    request: Request,
    caller: UserCaller,
    engine: InEngine,
    tinker_id: TinkerId,
    query: Annotated[ViewQuery, Query()],
) -> Response:
    """Return one base model by its exact id."""
    try:
        expand = expansions(query.expand)
    except CatalogQueryError as error:
        raise _refused(error) from None
    model = get_training_model(tinker_id)
    if model is None:
        raise NotFound(unknown_model(tinker_id))
    data = entry(model, expand)
    if "available" not in expand:
        return _prepared(request, data)
    known, data["engine"] = await _ask(engine)
    _fill_in(data, model, known)
    return _fresh(data)


def _refused(error: CatalogQueryError) -> Invalid:
    item = {"loc": ["query", error.field], "msg": str(error), "type": "value_error"}
    return Invalid(str(error), errors=[item])


def _prepared(request: Request, data: Mapping[str, Any]) -> Response:
    answer = Answer.of(data)
    answers: Answers = request.app.state.catalog_answers
    answers.keep(request.scope, answer)
    return PreparedResponse(answer)


def _fresh(data: Mapping[str, Any]) -> Response:
    """Return an answer that is true only now, since it tells what the engine serves."""
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(
        body, media_type="application/json", headers={"Cache-Control": "private, no-store"}
    )


async def _ask(engine: EngineClient) -> tuple[Capabilities | None, dict[str, Any]]:
    """Return what the engine serves, and the age of that knowledge; or why nothing is known.

    The catalog can be read without the engine: then `available` is unknown.
    """
    try:
        known = await engine.capabilities()
    except ApiError as error:
        return None, {"age_seconds": None, "serves": [], "detail": error.detail}
    serves = sorted(name for name in known.models if known.trainable(name) is not None)
    return known, {"age_seconds": round(known.age, 1), "serves": serves, "detail": None}


def _fill_in(shown: dict[str, Any], model: TrainingModel, known: Capabilities | None) -> None:
    def available(tinker_id: str) -> bool | None:
        return None if known is None else known.trainable(tinker_id) is not None

    shown["available"] = available(model.tinker_id)
    if shown.get("extended") is not None:
        shown["extended"]["available"] = available(shown["extended"]["tinker_id"])
