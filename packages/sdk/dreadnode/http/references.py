"""Datasets and capabilities as callers write them: `name@version`, a dict, a path, a reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dreadnode import capabilities
from dreadnode.datasets.jsonl import is_path, parse_ref
from dreadnode.errors import InputError
from dreadnode.lazy_types import wire

if TYPE_CHECKING:
    from dreadnode.training.evaluations import EvalRequest
    from dreadnode.training.jobs import SftRequest
    from dreadnode.training.rl import RlRequest

    DatasetLike = str | Path | Mapping[str, str] | wire.DatasetRef
    CapabilityLike = str | Mapping[str, str] | wire.CapabilityRef
    AnyJobRequest = SftRequest | RlRequest | EvalRequest
    JobRequest = TypeVar("JobRequest", SftRequest, RlRequest, EvalRequest)


def local_path(dataset: DatasetLike) -> Path | None:
    """Return the file or folder that DATASET names, if it names one."""
    if isinstance(dataset, Path):
        return dataset
    return Path(dataset) if isinstance(dataset, str) and is_path(dataset) else None


def dataset_ref(dataset: DatasetLike) -> wire.DatasetRef:
    """Return the reference of a dataset that is on the server."""
    if isinstance(dataset, wire.DatasetRef):
        return dataset
    if isinstance(dataset, str):
        name, version = parse_ref(dataset)
        return wire.DatasetRef(name=name, version=version)
    made: wire.DatasetRef = _validated(wire.DatasetRef, dataset, "dataset")
    return made


def capability_ref(capability: CapabilityLike | None) -> wire.CapabilityRef | None:
    """Return the reference of a capability."""
    if capability is None or isinstance(capability, wire.CapabilityRef):
        return capability
    if isinstance(capability, str):
        name, version = capabilities.parse_ref(capability)
        return wire.CapabilityRef(name=name, version=version)
    made: wire.CapabilityRef = _validated(wire.CapabilityRef, capability, "capability")
    return made


def job_request(kind: type[JobRequest], config: Mapping[str, Any], **fields: Any) -> JobRequest:
    """Return a request with the settings in CONFIG.

    Raises:
        InputError: A setting is unknown or out of bounds.
    """
    from pydantic import ValidationError

    values = {name: value for name, value in config.items() if value is not None}
    try:
        return kind.model_validate({**fields, "config": values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"]).removeprefix("config.")
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown setting `{path}`{_similar(kind, path)}") from None
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"`{path}` is {first['input']!r}, but {message}") from None


def _similar(kind: type[JobRequest], name: str) -> str:
    from difflib import get_close_matches

    known = kind.model_fields["config"].annotation
    names = list(getattr(known, "model_fields", {}))
    found = get_close_matches(name, names, n=1)
    return f"; did you mean `{found[0]}`?" if found else ""


def _validated(kind: Any, value: object, name: str) -> Any:
    from pydantic import ValidationError

    try:
        return kind.model_validate(value)
    except ValidationError:
        raise InputError(
            f"{value!r} is not a {name}; write `name@version` or a dict with `name` and `version`"
        ) from None
