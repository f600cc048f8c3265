"""The settings of a job as a table: by group, with those that have their default told apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode_api.models.jobs import Job
from dreadnode_api.training.defaults import KINDS, default_names
from dreadnode_api.training.setting_metadata import Group, mark

LONGEST = 400
"""How many characters of a value are shown."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a job."""

    name: str
    value: str
    help: str
    is_default: bool


def setting_groups(job: Job) -> Mapping[str, list[Setting]]:
    """Return the settings of a job by the title of their group; those that were set come first."""
    fields = KINDS[job.trainer_type].model_fields
    defaults = default_names(job.trainer_type, job.config)
    groups: dict[str, list[Setting]] = {}
    for name, value in job.config.items():
        field = fields.get(name)
        group = None if field is None else mark(field, Group)
        groups.setdefault(group.title if group else "Data", []).append(
            Setting(
                name=name,
                value=shown(value),
                help="" if field is None else field.description or "",
                is_default=name in defaults,
            )
        )
    return {
        title: sorted(settings, key=lambda each: each.is_default)
        for title, settings in groups.items()
    }


def shown(value: Any) -> str:
    """Return a value as one reads it: `name@version` for a reference, JSON for the rest."""
    if isinstance(value, dict) and set(value) == {"name", "version"}:
        return f"{value['name']}@{value['version']}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
