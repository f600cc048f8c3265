"""What schemathesis cannot know by itself: how a dataset is sent."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import schemathesis
from hypothesis import strategies as st

ROWS = st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=3)


@schemathesis.serializer("application/x-ndjson")
def jsonl(context: Any, value: Any) -> Any:
    """Send text as it is, and anything else as one row."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


schemathesis.openapi.format(
    "jsonl", ROWS.map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows))
)


@schemathesis.serializer("text/csv", "application/vnd.apache.parquet")
def as_it_is(context: Any, value: Any) -> Any:
    """Send bytes and text as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    """Return ROWS, of which the number counts, as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [json.dumps(row) for row in rows]}), file)
    return file.getvalue()


schemathesis.openapi.format(
    "csv", ROWS.map(lambda rows: "a,b\r\n" + "".join(f"1,{len(row)}\r\n" for row in rows))
)
schemathesis.openapi.format("parquet", ROWS.map(parquet))
schemathesis.openapi.format(
    "jsonl-file", ROWS.map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows))
)
