"""What schemathesis cannot know by itself: how a dataset is sent."""

import json
from typing import Any

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
