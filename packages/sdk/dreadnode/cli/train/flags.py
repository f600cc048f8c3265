"""Flags that set a job's config: checked before anything is sent, and named in refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dreadnode.errors import ApiError, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import BaseModel

RehearseFirst = Annotated[
    bool,
    Parameter(
        help="Rehearse first; the job starts only if its rehearsal completes. "
        "`--rehearse-first=STEPS` sets the steps of the rehearsal as well."
    ),
]
RehearseSteps = Annotated[
    int | None,
    Parameter(help="Steps of the rehearsal; all if not set. `--rehearse=STEPS` sets them as well."),
]

_QUOTED = re.compile(r"`(?:config\.)?(\w+)`")


def given(
    flags: DataclassInstance, config: type[BaseModel], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return those of FLAGS that were given, if CONFIG, which has a field for each, takes them.

    Args:
        flags: What the command line says; None is "not given".
        config: The type of the job's config.
        names: The flag that sets each setting.

    Raises:
        InputError: A value is out of bounds; the sentence names the flag.
    """
    from pydantic import ValidationError

    from dreadnode.job_files.job_file import FROM_ADAPTER, TOKENIZER, absolute, must, shown

    values = {each.name: getattr(flags, each.name) for each in fields(flags)}
    values = {name: value for name, value in values.items() if value is not None}
    if (tokenizer := values.get(TOKENIZER)) is not None:
        values[TOKENIZER] = absolute(tokenizer, Path.cwd())
    if (start := values.get(FROM_ADAPTER)) is not None:
        from dreadnode.http.adapter_files import local_adapter

        local_adapter(start)
    try:
        config.model_validate(values)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            if each["type"] != "missing":  # Those are set by other flags.
                flag = names[str(each["loc"][0])]
                raise InputError(
                    f"`{flag}` must be {must(each)}, not {shown(each['input'])}"
                ) from None
    return values


@contextmanager
def flags_named(names: Mapping[str, str]) -> Iterator[None]:
    """Have a refusal of the server name the flag that set the setting in question."""
    try:
        yield
    except ApiError as error:
        error.args = (
            _QUOTED.sub(lambda found: f"`{names.get(found[1], found[0][1:-1])}`", str(error)),
        )
        raise
