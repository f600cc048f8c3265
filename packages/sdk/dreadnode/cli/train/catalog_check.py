"""`dn train catalog --check`: differences between the catalog and the served models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dreadnode.cli.output import say
from dreadnode.errors import ConnectionFailed, DreadnodeError, ProtocolError
from dreadnode.training import CATALOG_AS_OF, TINKER_MODELS, get_training_model

if TYPE_CHECKING:
    from dreadnode.cli.context import Common


class CatalogDiffers(DreadnodeError):
    """The served models differ from the catalog."""


def compare(common: Common) -> None:
    """Print the differences between the catalog and the served models.

    Raises:
        CatalogDiffers: They differ.
    """
    source, served = _tinker(common) if os.environ.get("TINKER_API_KEY") else _server(common)
    found = differences(served)
    if common.json:
        common.out.json({"source": source, "catalog_as_of": CATALOG_AS_OF, **found})
    else:
        say(f"{source}, compared with the catalog of {CATALOG_AS_OF}")
        for kind, models in found.items():
            common.out.text(*(f"{HEADINGS[kind]:<30}  {model}" for model in models))
    count = sum(len(models) for models in found.values())
    if count:
        how_many = "1 model" if count == 1 else f"{count} models"
        raise CatalogDiffers(
            f"the catalog and the served models differ in {how_many}; see docs/reference/catalog.md"
        )
    say(f"no difference: the catalog has all {len(served)} served models")


HEADINGS = {
    "unknown": "served, not in the catalog",
    "missing": "in the catalog, not served",
    "not_retired": "retired in the catalog, served",
}


def differences(served: Iterable[str]) -> dict[str, list[str]]:
    """Return which models are served and unknown, active and not served, retired and served.

    An extended variant that is not served is not reported if its base model is served.
    """
    ids = set(served)
    unknown = [name for name in sorted(ids) if get_training_model(name) is None]
    active = [model.tinker_id for model in TINKER_MODELS if model.status == "active"]
    retired = [model.tinker_id for model in TINKER_MODELS if model.status == "retired"]
    return {
        "unknown": unknown,
        "missing": [name for name in active if name not in ids],
        "not_retired": [name for name in retired if name in ids],
    }


def _server(common: Common) -> tuple[str, list[str]]:
    """Return the models that the engine of our server serves."""
    with common.client(scoped=False) as client:
        engine = client.get_training_catalog(limit=1, expand="available").get("engine")
        if not isinstance(engine, dict) or not {"age_seconds", "serves", "detail"} <= engine.keys():
            raise ProtocolError(f"{client.server} does not say what its engine serves")
        if engine["age_seconds"] is None:
            raise ConnectionFailed(f"the server's engine did not respond: {engine['detail']}")
        return f"the engine of {client.server}", engine["serves"]


def _tinker(common: Common) -> tuple[str, list[str]]:
    """Return the models that Tinker, or a server with its protocol, serves."""
    from dreadnode.cli.context import transport
    from dreadnode.http.calls import Call
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.local_server.serve import HOSTED_TINKER

    address = os.environ.get("TINKER_BASE_URL") or HOSTED_TINKER
    call = Call(
        "GET",
        "/get_server_capabilities",
        json.loads,
        headers={"X-API-Key": os.environ["TINKER_API_KEY"]},
        repeatable=True,
    )
    with ApiClient(address, transport=transport.get()) as client:
        answer: Any = client.send(call)
    try:
        models = answer["supported_models"]
        names = [one["model_name"] for one in models if one.get("trainable") is not False]
    except (TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(
            f"{address} responds, but not like Tinker; check `TINKER_BASE_URL`"
        ) from error
    return address, [name for name in names if isinstance(name, str)]
