"""Routes of the base-model catalog."""

import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from app.training.catalog import CatalogQueryError, TrainingModel, get_training_model
from fastapi import APIRouter, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from dreadnode_api.auth import deps
from dreadnode_api.auth.deps import UserCaller
from dreadnode_api.catalog.availability import add_availability, ask
from dreadnode_api.catalog.schemas import (
    CatalogQuery,
    TrainingCatalogEntry,
    TrainingCatalogResponse,
    ViewQuery,
)
from dreadnode_api.catalog.unknown import unknown_model
from dreadnode_api.catalog.view import entry, expansions, page
from dreadnode_api.errors import ERRORS, Invalid, NotFound
from dreadnode_api.http.deps import InEngine, InSettings

# Any text is looked up. In OpenAPI a path parameter has no slashes, so its pattern describes an id
# with `%2F`; this server accepts both.
TinkerId = Annotated[
    str,
    Path(
        max_length=200,
        description="A base or an extended id, slash included",
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._:%-]*$"},
    ),
]
MAX_PREPARED = 256
"""How many responses are kept."""
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The response that `If-None-Match` names has not changed"}
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The bytes of a response, with an entity tag that is the digest of the bytes."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Encode DATA."""
        body = _encode(data)
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def response(self, request: Request) -> Response:
        """Return the response, or a 304 if the client has it already."""
        request.state.prepared = self
        headers = {"ETag": self.etag, "Cache-Control": "private, no-cache"}
        tags = request.headers.get("if-none-match", "").split(",")
        if any(tag.strip().removeprefix("W/") in (self.etag, "*") for tag in tags):
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type="application/json", headers=headers)


class PreparedRoute(APIRoute):
    """A route that prepares the response for each path and query string once.

    The catalog never changes while the process runs. The token is checked every time, by the
    dependency that the route itself has.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        handle = super().get_route_handler()
        known: dict[tuple[str, bytes], Prepared] = {}

        async def answer(request: Request) -> Response:
            key = request.scope["path"], request.scope["query_string"]
            if (prepared := known.get(key)) is not None:
                await deps.user(await deps.caller(request))
                return prepared.response(request)
            response = await handle(request)
            if (prepared := getattr(request.state, "prepared", None)) is not None:
                known[key] = prepared
                if len(known) > MAX_PREPARED:
                    del known[next(iter(known))]
            return response

        return answer


router = APIRouter(
    prefix="/training/catalog",
    responses=ERRORS,
    tags=["Training catalog"],
    route_class=PreparedRoute,
)


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
    settings: InSettings,
    query: Annotated[CatalogQuery, Query()],
) -> Response:
    """List base models accepted by hosted Tinker training jobs.

    This is the source of truth for what you can pass as `--model` on `dn train sft` and
    `dn train rl`.
    """
    try:
        expand, found = expansions(query.expand), query.find()
    except CatalogQueryError as error:
        raise refused(error) from None
    data = page(found, expand, facets=query.facets)
    if "available" not in expand:
        return Prepared.of(data).response(request)
    known, data["engine"] = await ask(engine, settings)
    for model, shown in zip(found.models, data["models"], strict=True):
        add_availability(shown, model, known)
    return _uncached(data)


@router.get("/{tinker_id:path}", response_model=TrainingCatalogEntry, responses=_NOT_MODIFIED)
async def get_catalog_model(
    request: Request,
    caller: UserCaller,
    engine: InEngine,
    settings: InSettings,
    tinker_id: TinkerId,
    query: Annotated[ViewQuery, Query()],
) -> Response:
    """Return one base model by its exact id."""
    try:
        expand = expansions(query.expand)
    except CatalogQueryError as error:
        raise refused(error) from None
    model = known_entry(tinker_id)
    data = entry(model, expand)
    if "available" not in expand:
        return Prepared.of(data).response(request)
    known, data["engine"] = await ask(engine, settings)
    add_availability(data, model, known)
    return _uncached(data)


def known_entry(tinker_id: str) -> TrainingModel:
    """Return the entry of a base or an extended id.

    Raises:
        NotFound: it is not in the catalog; the message names similar ids.
    """
    model = get_training_model(tinker_id)
    if model is None:
        raise NotFound(unknown_model(tinker_id))
    return model


def refused(error: CatalogQueryError) -> Invalid:
    """Return the error for a search that is not possible."""
    item = {"loc": ["query", error.field], "msg": str(error), "type": "value_error"}
    return Invalid(str(error), errors=[item])


def _encode(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _uncached(data: Mapping[str, Any]) -> Response:
    """Return a response that is true only now, because it says what the engine serves."""
    headers = {"Cache-Control": "private, no-store"}
    return Response(_encode(data), media_type="application/json", headers=headers)
