"""Columns of the extension type `arrow.json`, in which `datasets` stores values of mixed types.

Arrow gives their values as text, at any depth; here the text becomes the value.
"""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from dreadnode_api.datasets.formats import no_constant, unique

NAME = "arrow.json"
Parser = Callable[[Any], Any]


def json_parsers(schema: pa.Schema) -> dict[str, Parser]:
    """Return, for each column of SCHEMA with JSON in it, what turns its values into JSON values."""
    found = ((field.name, _parser(field.type)) for field in schema)
    return {name: parse for name, parse in found if parse is not None}


def _parser(kind: pa.DataType) -> Parser | None:
    """Return what parses the JSON within values of KIND; None where there is none."""
    is_ = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _value if kind.extension_name == NAME else _parser(kind.storage_type)
    if is_.is_dictionary(kind):
        return _parser(kind.value_type)
    if is_.is_struct(kind):
        fields = {field.name: parse for field in kind if (parse := _parser(field.type))}
        return _in_struct(fields) if fields else None
    if is_.is_map(kind):
        inner = _parser(kind.item_type)
        return _in_map(inner) if inner else None
    if any(test(kind) for test in _LISTS):
        inner = _parser(kind.value_type)
        return _in_list(inner) if inner else None
    return None


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _value(text: Any) -> Any:
    if text is None:
        return None
    return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)


def _in_struct(fields: dict[str, Parser]) -> Parser:
    def parse(value: Any) -> Any:
        if value is None:
            return None
        return {
            name: fields[name](each) if name in fields else each for name, each in value.items()
        }

    return parse


def _in_map(inner: Parser) -> Parser:
    def parse(value: Any) -> Any:
        return value and {name: inner(each) for name, each in value.items()}

    return parse


def _in_list(inner: Parser) -> Parser:
    def parse(value: Any) -> Any:
        return value and [inner(each) for each in value]

    return parse
