"""The form of a new job: its fields, and the request that its values describe."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from dreadnode_api.console.forms import validated
from dreadnode_api.training.check_request import CUSTOM_CODE
from dreadnode_api.training.job_settings import GROUPS, Setting, kind
from dreadnode_api.training.schemas import JobRequest

KINDS = {"sft": "Supervised", "rl": "Reinforcement learning", "eval": "Evaluation"}
MODES = [
    ("", "Train"),
    ("rehearse", "Rehearse on a small stand-in"),
    ("rehearse_first", "Rehearse first, then train"),
]
FIRST = {
    "sft": ("dataset_ref", "epochs", "steps", "batch_size", "learning_rate", "lora_rank"),
    "rl": (
        *("prompt_dataset_ref", "algorithm", "reward_recipe", "steps"),
        *("num_rollouts", "group_size", "max_new_tokens", "learning_rate"),
    ),
    "eval": ("models", "dataset_ref", "split", "limit", "include_base", "reward_recipe", "samples"),
}
"""What most people set, and so stands above the other settings."""
LAST = "max_cost_usd"
RECIPES = {"reward_recipe": "reward", "environment": "environment"}
"""Settings that are a recipe, and what the names of the fields of its parts begin with."""
LONG = ("system_prompt",)
LABELS = {
    "reward recipe": "Reward",
    "max cost usd": "Maximum cost in US dollars",
    "lora rank": "LoRA rank",
}
WIDEST_BOUND = 100_000
"""A larger bound says nothing to the reader."""
MODELS = ("model", "models")
DATA = ("dataset_ref", "prompt_dataset_ref", "trajectory_dataset_refs")

_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
_WITH_COMMAS = re.compile(r"\d{1,3}(,\d{3})+")
"""A whole number as pages show it. `1,5` is not one."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form: a setting, and what is filled in."""

    setting: Setting
    value: str

    @property
    def name(self) -> str:
        """The name of its input."""
        return self.setting.name

    @property
    def label(self) -> str:
        """What it is called in the form."""
        words = self.name.removesuffix("_refs").removesuffix("_ref").replace("_", " ")
        return LABELS.get(words, words[:1].upper() + words[1:])

    @property
    def hint(self) -> str:
        """What the setting does, with its bounds."""
        bounds, most = self.setting.bounds(), self.setting.constraints.get("le", 0)
        if not bounds or self.setting.kind not in ("integer", "number") or most > WIDEST_BOUND:
            return self.setting.help
        return f"{self.setting.help.removesuffix('.')} ({bounds})."

    @property
    def default(self) -> str:
        """The value that it has if nothing is filled in."""
        return self.setting.default_shown().replace("`", "")

    @property
    def options(self) -> Sequence[tuple[str, str]]:
        """The choices, if it has any."""
        if self.setting.required:
            return [(each, each) for each in self.setting.choices]
        shown = f"Default: {self.default}" if self.default else "Not set"
        if self.setting.kind == "boolean":
            return [("", shown), ("true", "true"), ("false", "false")]
        if self.setting.choices and self.setting.kind == "string":
            return [("", shown), *((each, each) for each in self.setting.choices)]
        return []

    @property
    def part(self) -> str:
        """What the names of the fields of its parts begin with, if it is a recipe."""
        return RECIPES[self.name]

    @property
    def is_long(self) -> bool:
        """Whether its value may have several lines."""
        return self.name in LONG or self.is_list

    @property
    def is_list(self) -> bool:
        """Whether each line is a value."""
        return self.setting.kind in ("list", "refs")


def fields(trainer_type: str, values: Mapping[str, str]) -> dict[str, list[Field]]:
    """Return the fields of the settings of training, by the title of their group.

    The first group has no title.
    """
    first = FIRST[trainer_type]
    found = {each.name: Field(each, _filled(each, values)) for each in kind(trainer_type).config}
    groups: dict[str, list[Field]] = {"": [found[name] for name in (*first, LAST)]}
    groups |= {title: [] for title in GROUPS}
    for name, each in found.items():
        if name not in (*first, LAST):
            groups[each.setting.group].append(each)
    return {title: each for title, each in groups.items() if each}


def _filled(setting: Setting, values: Mapping[str, str]) -> str:
    value = values.get(setting.name, "")
    if setting.name in RECIPES:
        return value or values.get(f"{RECIPES[setting.name]}_source", "")
    return value


def is_described(values: Mapping[str, str]) -> bool:
    """Return whether VALUES name a model and data, without which there is nothing to check."""
    return all(any(name in values for name in names) for names in (MODELS, DATA))


def values_of(request: JobRequest) -> dict[str, str]:
    """Return what the form shows for REQUEST."""
    given = request.model_dump(mode="json", exclude_unset=True)
    values = {}
    for name, value in {**given, **given["config"]}.items():
        if name in ("rehearse", "rehearse_first") and value:
            values["mode"] = name
        elif name in RECIPES and value is not None:
            values |= _parts(name, value)
        elif name != "config" and value is not None:
            values[name] = _text(value)
    return values


def _parts(name: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return a recipe as the fields of its parts: its name, its code and its other parameters."""
    values, params = {name: recipe["name"]}, dict(recipe.get("params") or {})
    if recipe["name"] == CUSTOM_CODE:
        values[f"{RECIPES[name]}_source"] = params.pop("source", "")
    if params:
        values[f"{RECIPES[name]}_params"] = json.dumps(params, ensure_ascii=False)
    return values


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, dict):
        return f"{value['name']}@{value['version']}"
    return value if isinstance(value, str) else json.dumps(value)


def request_of(values: Mapping[str, str]) -> JobRequest:
    """Return the request for the job that VALUES describe.

    Raises:
        ApiError: a value is not possible, in the words of the API's route.
    """
    trainer_type = values.get("trainer_type", "sft")
    described = kind(trainer_type if trainer_type in KINDS else "sft")
    body: dict[str, Any] = {"trainer_type": trainer_type}
    body |= dict(_given(described.job, values))
    if mode := values.get("mode"):
        body[mode] = True
    body["config"] = dict(_given(described.config, values))
    return validated(_REQUEST, body)


def _given(settings: Sequence[Setting], values: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for each in settings:
        if each.name in RECIPES:
            if recipe := _recipe(each.name, values):
                yield each.name, recipe
        elif each.name in values and each.name not in ("rehearse", "rehearse_first"):
            yield each.name, _value(each, values[each.name].strip())


def _recipe(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe that the fields of its parts describe; nothing if none is filled in."""
    given, source, params = (
        values.get(each) for each in (name, f"{RECIPES[name]}_source", f"{RECIPES[name]}_params")
    )
    if not (given or source or params):
        return {}
    recipe: dict[str, Any] = {"name": (given or (CUSTOM_CODE if source else "")).strip()}
    found = {} if params is None else _json(params)
    if source and isinstance(found, dict):
        found["source"] = source
    return recipe if params is None and not source else {**recipe, "params": found}


def _value(setting: Setting, text: str) -> Any:
    """Return TEXT as the value of a setting; what cannot be read stays text and is refused."""
    match setting.kind:
        case "integer" if _WITH_COMMAS.fullmatch(text):
            return _json(text.replace(",", ""))
        case "integer" | "number" | "boolean":
            return _json(text)
        case "list":
            return [line for line in text.split("\n") if line.strip()]
        case "ref" | "capability_ref":
            return _ref(text)
        case "refs":
            return [_ref(line.strip()) for line in text.split("\n") if line.strip()]
        case _:
            return text


def _ref(text: str) -> dict[str, str]:
    name, _, version = text.partition("@")
    return {"name": name, "version": version}


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON does not have {constant}")
