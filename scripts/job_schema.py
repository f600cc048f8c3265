"""What a job file may hold, from the API's own schema: the SDK carries it as `job_schema.json`.

Each setting has its name, its kind, what it does, and where there are any its default, its bounds,
its choices and an example of a value.
"""

from __future__ import annotations

import json
from typing import Any

from dreadnode_api.training.checks import SFT_DEFAULTS
from dreadnode_api.training.rl_checks import RL_DEFAULTS
from dreadnode_api.training.schemas import RlJobRequest, SftJobRequest
from pydantic import BaseModel

NOT_OFFERED = "Not offered here"
SAID_OTHERWISE = {"base_model", "backend", "trainer_type", "config"}
"""What is another name of a setting, or said by the form of the file."""

KINDS = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text"}
ORDER = ("dataset_ref", "split", "algorithm", "prompt_dataset_ref", "prompt_split")
"""What comes first, since a job cannot do without it."""


def job_schema() -> str:
    """Return the settings of both kinds of jobs, as JSON."""
    found = {
        "sft": _settings(SftJobRequest, SFT_DEFAULTS),
        "rl": _settings(RlJobRequest, RL_DEFAULTS),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _settings(request: type[BaseModel], defaults: dict[str, Any]) -> dict[str, Any]:
    described = request.model_json_schema()
    types = described["$defs"]
    config = types[request.model_fields["config"].annotation.__name__]  # type: ignore[union-attr]
    of_job = {k: v for k, v in described["properties"].items() if k not in SAID_OTHERWISE}
    return {
        "job": [_setting(name, each, types, {}) for name, each in of_job.items()],
        "config": [
            _setting(name, each, types, defaults)
            for name, each in sorted(config["properties"].items(), key=_order)
            if not each.get("description", "").startswith(NOT_OFFERED)
        ],
    }


def _order(item: tuple[str, Any]) -> int:
    name = item[0]
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _setting(
    name: str, described: dict[str, Any], types: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    own = {**described, **_not_null(described)}
    found = {"name": name, "kind": _kind(own, types), "help": described["description"]}
    if "enum" in own:
        found["choices"] = own["enum"]
    default = defaults.get(name, own.get("default"))
    if default is not None:
        found["default"] = default
    elif "examples" in described:
        found["example"] = described["examples"][0]
    for bound in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if bound in own:
            found[bound] = own[bound]
    return found


def _not_null(described: dict[str, Any]) -> dict[str, Any]:
    kinds = [each for each in described.get("anyOf", ()) if each.get("type") != "null"]
    return kinds[0] if kinds else {}


def _kind(own: dict[str, Any], types: dict[str, Any]) -> str:
    """Return what a value is: one of KINDS, a `list` of texts, a `ref`, `refs` or a `recipe`."""
    if "$ref" in own:
        return own["$ref"].rpartition("/")[2].lower()
    if own["type"] == "array":
        return "refs" if "$ref" in own["items"] else "list"
    return KINDS.get(own["type"], own["type"])
