"""Command-line flags, made from the fields of the settings."""

import argparse
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

S = TypeVar("S", bound=BaseModel)


def add_flags(parser: argparse.ArgumentParser, settings: type[BaseModel]) -> None:
    """Add one flag for each field of SETTINGS; pydantic checks the values in `read_flags`."""
    for name, field in settings.model_fields.items():
        extra = field.json_schema_extra
        help_text = (field.description or "").replace("%", "%%")
        options: dict[str, Any] = {"default": argparse.SUPPRESS}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(field.annotation) is tuple:
            options["action"] = "append"
        elif choices := _choices(field.annotation):
            options["choices"] = choices
        else:
            kind = "S" if name.endswith("_seconds") else name.rsplit("_", 1)[-1].upper()
            options["metavar"] = kind
        if isinstance(extra, dict):
            options["metavar"] = extra["metavar"]
        if field.is_required():
            options["required"] = True
        elif field.default is not None and field.annotation is not bool and field.default != ():
            help_text += f" Default: {_format(field.default)}."
        parser.add_argument(_flag(name), help=help_text, **options)


def read_flags(
    parser: argparse.ArgumentParser, options: argparse.Namespace, settings: type[S]
) -> S:
    """Return SETTINGS with the values of OPTIONS, or exit with code 2 and one sentence."""
    given = {name: value for name, value in vars(options).items() if name in settings.model_fields}
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = first["msg"].replace("Input should", "must", 1)
        parser.error(f"argument {_flag(str(first['loc'][0]))}: `{first['input']}` {problem}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((get_args(a) for a in get_args(annotation) if get_origin(a) is Literal), ())


def _format(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
