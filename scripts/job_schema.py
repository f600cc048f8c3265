"""The settings of a job file as JSON, which the SDK carries as `job_schema.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dreadnode_api.training.job_settings import Kind, Setting

JSON_SCHEMA_NAMES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
JSON_SCHEMA_NAMES["lt"] = "exclusiveMaximum"


def job_schema(kinds: list[Kind]) -> str:
    """Return the settings of every kind of job, as JSON."""
    found = {
        kind.name: {
            "job": [dict(_described(each)) for each in kind.job],
            "config": [dict(_described(each)) for each in kind.grouped()],
        }
        for kind in kinds
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _described(setting: Setting) -> Iterator[tuple[str, Any]]:
    yield "name", setting.name
    yield "kind", setting.kind
    yield "help", setting.help
    yield "group", setting.group
    if setting.choices:
        yield "choices", list(setting.choices)
    if setting.default is not None:
        yield "default", setting.default
    elif setting.example is not None:
        yield "example", setting.example
    if setting.default_text:
        yield "default_text", setting.default_text
    if setting.needs:
        yield "needs", setting.needs
    for constraint, value in setting.constraints.items():
        if constraint in JSON_SCHEMA_NAMES:
            yield JSON_SCHEMA_NAMES[constraint], value
