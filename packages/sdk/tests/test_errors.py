"""Which error an answer becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dreadnode import errors
from dreadnode.errors import ApiError, FieldError, UnknownModelError, refusal


def refused(status: int, detail: Any, **fields: Any) -> ApiError:
    body = {"code": status, "type": "t", "detail": detail, **fields}
    return refusal(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (422, errors.ValidationError),
        (426, errors.UpgradeRequiredError),
        (429, errors.RateLimitedError),
        (500, errors.ServerError),
        (502, errors.UpstreamError),
        (503, errors.ServerError),
        (504, errors.UpstreamError),
        (405, ApiError),
        (307, ApiError),
    ],
)
def test_each_status_has_its_error_class(status: int, kind: type[ApiError]) -> None:
    error = refused(status, "No")

    assert type(error) is kind
    assert (str(error), error.status, error.code, error.type) == ("No", status, status, "t")


def test_a_refused_field_is_named() -> None:
    field = {"loc": ["body", "config", "steps"], "msg": "too many", "type": "range"}

    assert refused(422, "Too many steps", errors=[field]).errors == (
        FieldError(("body", "config", "steps"), "too many", "range"),
    )


@pytest.mark.parametrize("status", [404, 422])
def test_an_unknown_model_carries_the_suggestions(status: int) -> None:
    error = refused(
        status,
        "Unknown training base model 'meta-llama/Llama-3.1-8B-Instruc'.\n"
        "Did you mean one of: meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B?",
    )

    assert isinstance(error, UnknownModelError)
    assert error.model == "meta-llama/Llama-3.1-8B-Instruc"
    assert error.suggestions == (
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-8B",
    )


def test_an_unknown_model_without_similar_ones_has_no_suggestions() -> None:
    error = refused(422, "Unknown training base model 'it's'.\nSee `dn train catalog`.")

    assert isinstance(error, UnknownModelError)
    assert (error.model, error.suggestions) == ("it's", ())


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b"{}", b'{"detail": ["a"]}', b"\xff", b'{"detail": ""}'],
)
def test_a_response_without_the_envelope_becomes_a_message(body: bytes) -> None:
    error = refusal(502, {}, body)

    assert str(error).startswith("the server responded with 502")
    assert isinstance(error, errors.UpstreamError)


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("soon", None), ("-1", None)])
def test_retry_after_is_seconds_or_none(header: str, seconds: float | None) -> None:
    assert refusal(429, {"retry-after": header}, b"").retry_after == seconds


def test_the_docstrings_tree_contains_every_class() -> None:
    assert errors.__doc__
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DreadnodeError)
    ]

    assert [name for name in classes if name not in errors.__doc__] == []
