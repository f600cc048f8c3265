"""Parquet: columns of any type with an exact JSON form, including nested ones and `arrow.json`.

Dates and timestamps become ISO 8601 text with all their digits. Decimals, bytes, durations and
times of day are refused with what to cast them to.
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dreadnode_api.datasets.formats import Unreadable, check_columns, json_reason, to_json
from dreadnode_api.datasets.formats.arrow_json import Parser, json_parsers

# A batch of the longest rows must fit into memory.
ROWS_AT_ONCE = 128
MAX_DEPTH = 32


def rows(file: BinaryIO) -> Iterator[str]:
    """Yield the rows of FILE, each an object with a key for each column.

    Raises:
        Unreadable: it is not Parquet, or has a value without an exact JSON form.
    """
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    number = 0
    try:
        source = pq.ParquetFile(file, pre_buffer=False)
        schema = _as_json(source.schema_arrow)
        parsers = json_parsers(source.schema_arrow)
        for batch in source.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
            # Types without a JSON form, such as timestamps, are converted to text.
            for row in batch.cast(schema).to_pylist(maps_as_pydicts="strict"):
                number += 1
                for name, parse in parsers.items():
                    row[name] = _parsed(number, name, parse, row[name])
                yield _text(number, row)
    except pa.ArrowMemoryError:
        raise MemoryError from None
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0][:200].rstrip(".")
        raise Unreadable(f"The file cannot be read as Parquet ({reason})") from None


def _text(number: int, row: dict[str, Any]) -> str:
    try:
        return to_json(row)
    except ValueError:
        raise Unreadable(
            f"Row {number}, column `{_culprit(row)}` has a number that is infinite or NaN; "
            "JSON has no such numbers, so write null"
        ) from None


def _parsed(number: int, name: str, parse: Parser, value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise Unreadable(
            f"Row {number}, column `{name}` has the type JSON and holds other text "
            f"({json_reason(error)})"
        ) from None


def _culprit(row: dict[str, Any]) -> str:
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return name
    return ""


def _as_json(schema: pa.Schema) -> pa.Schema:
    """Return the types to read the columns of SCHEMA as.

    Raises:
        Unreadable: a column's name or type is not allowed.
    """
    check_columns(list(schema.names))
    return pa.schema([_field(field, field.name, 1) for field in schema])


def _field(field: pa.Field, column: str, depth: int) -> pa.Field:
    return pa.field(field.name, _type(field.type, column, depth), field.nullable)


def _type(kind: pa.DataType, column: str, depth: int) -> pa.DataType:
    is_ = pa.types
    if depth > MAX_DEPTH:
        raise Unreadable(f"Column `{column}` is nested more than {MAX_DEPTH} levels deep")
    if isinstance(kind, pa.BaseExtensionType):
        # What `arrow.json` holds is parsed row by row; other types are read as what they store.
        return _type(kind.storage_type, column, depth + 1)
    if is_.is_dictionary(kind):
        return _type(kind.value_type, column, depth)
    if any(test(kind) for test in _EXACT):
        return kind
    if is_.is_timestamp(kind) or is_.is_date(kind):
        return pa.string()
    if is_.is_list(kind) or is_.is_list_view(kind) or is_.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field, column, depth + 1))
    if is_.is_large_list(kind) or is_.is_large_list_view(kind):
        return pa.large_list(_field(kind.value_field, column, depth + 1))
    if is_.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) != len(names):
            raise Unreadable(f"Column `{column}` has two fields of one name; rename one")
        return pa.struct([_field(field, column, depth + 1) for field in kind])
    if is_.is_map(kind) and is_.is_string(kind.key_type):
        return pa.map_(kind.key_type, _field(kind.item_field, column, depth + 1))
    raise Unreadable(f"Column `{column}` has the type {kind}, {_instead(kind)}")


_EXACT = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)


def _instead(kind: pa.DataType) -> str:
    is_ = pa.types
    if is_.is_decimal(kind):
        return "which has no exact JSON form; cast it to a floating-point number or to text"
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind):
        return "and JSON has no bytes; cast it to text, or remove the column"
    if is_.is_map(kind):
        return "and the keys of a JSON object are strings; cast them"
    return "which has no JSON form; cast it to text or to a number, or remove the column"
