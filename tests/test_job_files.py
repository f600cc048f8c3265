"""Job files against the API itself: whatever `dn train init` writes, the API takes."""

from pathlib import Path
from typing import Any

import pytest
from app.training.catalog import get_training_model
from dreadnode.job_files.job_file import parse
from dreadnode.job_files.template import MODEL, settings, template
from dreadnode.wire import DatasetRef
from dreadnode_api.training.defaults import resolve
from dreadnode_api.training.schemas import JobRequest, RlJobRequest, SftJobRequest
from dreadnode_api.training.setting_metadata import offered
from pydantic import TypeAdapter

API: TypeAdapter[Any] = TypeAdapter(JobRequest)

EXAMPLES = Path(__file__).parents[1] / "examples"
# What some settings have no effect without, as the file itself says of them.
NEEDS: dict[tuple[str, str], list[str]] = {
    ("sft", "rehearse_steps"): ["rehearse = true"],
    ("rl", "rehearse_steps"): ["rehearse = true"],
    ("sft", "eval_interval"): ['eval_split = "validation"'],
    ("sft", "early_stopping_patience"): ['eval_split = "validation"', "eval_interval = 10"],
    ("sft", "early_stopping_min_delta"): [
        *('eval_split = "validation"', "eval_interval = 10", "early_stopping_patience = 3")
    ],
    ("rl", "eval_interval"): ['eval_split = "validation"'],
    ("rl", "eval_max_rollouts"): ['eval_split = "validation"'],
    ("rl", "max_steps_off_policy"): ['execution_mode = "fully_async"'],
}


def accepted(text: str, folder: Path) -> Any:
    """Return the request as the API reads it, after the way from the file through the SDK."""
    import tomllib

    described = parse(tomllib.loads(text), "job.toml", folder)
    request = described.request(lambda _: DatasetRef(name="rows", version="1"))
    return API.validate_json(request.model_dump_json(exclude_none=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text("class Environment: ...\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_a_new_job_file_is_accepted_by_the_api(kind: Any, folder: Path) -> None:
    request = accepted(template(kind, model=MODEL, dataset="rows.jsonl"), folder)

    assert (request.trainer_type, request.model) == (kind, MODEL)
    model = get_training_model(MODEL)
    assert model is not None
    assert model.status == "active"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_accepted_by_the_api(example: Path) -> None:
    assert accepted(example.read_text(encoding="utf-8"), EXAMPLES).model == MODEL


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, each["name"])
        for kind in ("sft", "rl")
        for part in settings(kind).values()
        for each in part
    ],
)
def test_every_setting_of_a_job_file_is_accepted_by_the_api(
    kind: Any, name: str, folder: Path
) -> None:
    text = template(kind, model=MODEL, dataset="rows.jsonl")
    for line in NEEDS.get((kind, name), []):
        key = line.partition(" ")[0]
        text = "\n".join(
            line if old.startswith(f"# {key} = ") else old for old in text.splitlines()
        )
    if name.startswith("clip_"):
        text = text.replace('"importance_sampling"', '"ppo"')

    lines = text.splitlines()
    found = [old for old in lines if old.removeprefix("# ").startswith(f"{name} = ")]
    assert len(found) == 1
    given = "\n".join(old.removeprefix("# ") if old == found[0] else old for old in lines)

    request = accepted(given, folder)

    said = {*request.model_fields_set, *request.config.model_fields_set}
    assert name in said


@pytest.mark.parametrize(("kind", "request_type"), [("sft", SftJobRequest), ("rl", RlJobRequest)])
def test_a_job_file_has_every_setting_of_the_api(kind: Any, request_type: Any) -> None:
    config = request_type.model_fields["config"].annotation

    assert {each["name"] for each in settings(kind)["config"]} == {
        name for name, _ in offered(config)
    }


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_a_job_files_defaults_are_those_of_the_api(kind: Any, folder: Path) -> None:
    request = accepted(template(kind, model=MODEL, dataset="rows.jsonl"), folder)
    resolved = resolve(request.config, 32_768)
    defaults = {e["name"]: e["default"] for e in settings(kind)["config"] if "default" in e}

    assert defaults == {name: resolved[name] for name in defaults}
