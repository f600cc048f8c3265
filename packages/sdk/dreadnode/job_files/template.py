"""A template of a job file: every setting with its help, bounds and default.

It is written from `training/job_schema.json`, which `make docs` writes from the API's models.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["sft", "rl", "eval"]

MODEL = "Qwen/Qwen3-8B"
ROWS: dict[str, tuple[str, list[dict[str, str]]]] = {
    "sft": (
        "rows.jsonl",
        [
            {"prompt": "When does the ferry leave?", "response": "At noon, from pier 4."},
            {"prompt": "Where do I buy a ticket?", "response": "On board, or at the kiosk."},
            {"prompt": "May I bring my bicycle?", "response": "Yes, bicycles travel free."},
            {"prompt": "Is there a ferry on Sunday?", "response": "Yes, at ten and at four."},
        ],
    ),
    "rl": (
        "prompts.jsonl",
        [
            {"prompt": f"What is {a} + {b}? Answer with the number.", "answer": str(a + b)}
            for a, b in ((2, 3), (4, 1), (7, 8), (12, 9))
        ],
    ),
}
"""An example dataset for each kind of job: the name of its file, and its rows."""
ROWS["eval"] = ROWS["sft"]
TITLES = {
    "sft": "A supervised fine-tuning job",
    "rl": "A reinforcement-learning job",
    "eval": "An evaluation",
}
TRAINED_ON = {"sft": "dataset_ref", "rl": "prompt_dataset_ref", "eval": "dataset_ref"}
_REF = "NAME@VERSION, or the path of a file or a folder, which is uploaded first"
_EXAMPLES: dict[str, Any] = {
    "capability_ref": "concise@1.0.0",
    "eval_dataset_ref": "exam@1.0.0",
    "environment": "tools.py",
}
_WIDTH = 100


def settings(kind: Kind) -> dict[str, list[dict[str, Any]]]:
    """Return the settings of a kind of job: those of the `job`, and of its `config`."""
    path = files("dreadnode.training").joinpath("job_schema.json")
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))[kind]
    return found


def template(kind: Kind, *, model: str, dataset: str) -> str:
    """Return a job file of KIND for MODEL and DATASET; every other setting is commented out."""
    given: dict[str, Any] = {"model": model, "models": [model], TRAINED_ON[kind]: dataset}
    if kind == "rl":
        given |= {"algorithm": "importance_sampling", "reward_recipe": {"name": "gsm8k_v1"}}
    described = settings(kind)
    lines = [
        f"# {TITLES[kind]}: `dn train submit FILE` submits it"
        + (", `--rehearse` rehearses it." if kind != "eval" else "."),
        "# A setting that is commented out has its default.",
        "",
        f'trainer_type = "{kind}"',
        "",
    ]
    for each in described["job"]:
        lines += _setting(each, given)
    lines += ["[config]", ""]
    for each in described["config"]:
        lines += _setting(each, given)
    return "\n".join(lines).rstrip() + "\n"


def _setting(described: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one setting: its help, and its value."""
    name = described["name"]
    words = _words(described, is_set=name in given)
    text = " ".join(f"{part[:1].upper()}{part[1:].removesuffix('.')}." for part in words if part)
    yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    value = given.get(name, described.get("default", _example(described)))
    yield f"{'' if name in given else '# '}{name} = {toml(value)}"
    yield ""


def _words(described: dict[str, Any], *, is_set: bool) -> Iterator[str]:
    yield described["help"]
    if described["kind"] == "ref" and described["name"] != "capability_ref":
        yield _REF
    if "choices" in described:
        yield "One of " + ", ".join(described["choices"])
    yield _bounds(described)
    if "needs" in described:
        yield f"Needs `{described['needs']}`"
    default = described.get("default_text", "")
    if default.startswith("required"):
        yield default
    elif default:
        yield f"Default: {default}"
    elif "default" not in described and not is_set:
        yield "Default: not set"


def _bounds(described: dict[str, Any]) -> str:
    low, high = described.get("minimum"), described.get("maximum")
    above, below = described.get("exclusiveMinimum"), described.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"From {low:,} to {high:,}"
    parts = [
        "" if low is None else f"at least {low:,}",
        "" if above is None else f"above {above:,}",
        "" if high is None else f"at most {high:,}",
        "" if below is None else f"below {below:,}",
    ]
    return ", ".join(part for part in parts if part)


def _example(described: dict[str, Any]) -> Any:
    name = described["name"]
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    if described["kind"] == "recipe":
        return {"name": "row_reward_v1"}
    if described["kind"] == "boolean":
        return True
    return described.get("example", "")


def toml(value: Any) -> str:
    """Return VALUE as TOML writes it on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(toml(each) for each in value)}]"
    # TOML writes strings, numbers and booleans as JSON does, except for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
