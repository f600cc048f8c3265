"""Errors of the argument parser as sentences."""

from __future__ import annotations

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError

from dreadnode.errors import InputError

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def usage_error(error: CycloptsError) -> InputError:
    """Return ERROR as one sentence."""
    argument = error.argument
    name = "" if argument is None else argument.name
    flag = f"`{name}`" if name.startswith("-") else name
    if type(error) is MissingArgumentError:
        given = error.keyword is not None or bool(argument and argument.tokens)
        return InputError(f"{flag} needs a value" if given else f"{flag} is missing")
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return InputError(f"unexpected argument `{error.unused_tokens[0]}`")
    if isinstance(error, CoercionError) and error.token and error.target_type in _KINDS:
        kind = _KINDS[error.target_type]
        return InputError(f"{flag} must be {kind}, not `{error.token.value}`")
    error.verbose = False
    return InputError(" ".join(str(error).split()).removesuffix("."))


def command_of(error: CycloptsError) -> str:
    """Return the command that ERROR is about."""
    return " ".join(["dn", *(error.command_chain or ())])
