"""`dn train init | submit | clone`, by what they say and send."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreadnode.job_files.template import settings
from dreadnode.training.jobs import SftConfig, SftRequest
from dreadnode.training.rl import RlConfig, RlRequest
from inline_snapshot import snapshot

Dn = Callable[[str], str]
JOB = """
trainer_type = "sft"
model = "Qwen/Qwen3-8B"
name = "first try"
tags = ["a", "b"]

[config]
dataset_ref = "support@1.0.0"
learning_rate = 0.5
steps = 20
"""


def sent(api: Any) -> dict[str, Any]:
    """Return the body of the last create."""
    posts = [each for each in api.requests if each.method == "POST"]
    body: dict[str, Any] = json.loads(posts[-1].content)
    return body


def errors(said: str) -> str:
    return said.partition("--- stderr\n")[2]


@pytest.mark.parametrize(
    ("kind", "request_type", "config"),
    [("sft", SftRequest, SftConfig), ("rl", RlRequest, RlConfig)],
)
def test_a_job_file_contains_every_setting(kind: Any, request_type: Any, config: Any) -> None:
    described = {part: {each["name"] for each in found} for part, found in settings(kind).items()}

    assert described["job"] == set(request_type.model_fields) - {
        "backend",
        "trainer_type",
        "config",
    }
    assert described["config"] == set(config.model_fields)


def test_a_new_job_file_can_be_submitted_unchanged(dn: Dn, api: Any) -> None:
    written = dn("train init sft")
    said = dn("train submit job.toml --rehearse")

    assert written == snapshot("""\
exit: 0
--- stdout
--- stderr
wrote job.toml
wrote rows.jsonl: 4 rows that show the shape; put yours there
hint: `dn train submit job.toml --rehearse` tries it out
""")
    assert said.startswith("exit: 0")
    ((name, version),) = api.datasets
    assert sent(api) == {
        "model": "Qwen/Qwen3-8B",
        "config": {"dataset_ref": {"name": name, "version": version}},
        "backend": "tinker",
        "trainer_type": "sft",
        "tags": [],
        "rehearse": True,
        "rehearse_first": False,
    }


def test_a_new_rl_job_file_can_be_submitted_unchanged(dn: Dn, api: Any) -> None:
    dn("train init rl nested.toml --model Qwen/Qwen3-8B-Base")
    dn("train submit nested.toml")

    body = sent(api)
    assert (body["model"], body["trainer_type"]) == ("Qwen/Qwen3-8B-Base", "rl")
    assert body["config"]["algorithm"] == "importance_sampling"
    assert body["config"]["reward_recipe"] == {"name": "gsm8k_v1", "params": {}}
    assert body["config"]["prompt_dataset_ref"]["name"] == "prompts"


def test_existing_files_are_not_overwritten(dn: Dn) -> None:
    Path("job.toml").write_text("mine")
    Path("rows.jsonl").write_text("mine")

    refused = dn("train init sft")
    beside = dn("train init sft other.toml")

    assert errors(refused) == "error: job.toml already exists; name another file\n"
    assert beside.startswith("exit: 0")
    assert (Path("job.toml").read_text(), Path("rows.jsonl").read_text()) == ("mine", "mine")


def test_a_file_with_a_dataset_of_its_own_needs_no_example(dn: Dn, api: Any) -> None:
    dn("train init sft --dataset support@1.0.0")
    dn("train submit job.toml")

    assert [path.name for path in Path.cwd().iterdir()] == ["job.toml"]
    assert sent(api)["config"]["dataset_ref"] == {"name": "support", "version": "1.0.0"}


def test_flags_override_the_files_settings(dn: Dn, api: Any) -> None:
    Path("job.toml").write_text(JOB)

    said = dn(
        "train submit job.toml --set config.learning_rate=2e-4 --set config.shuffle=false "
        "--set 'name=second try' --set tags=[] --unset config.steps --set config.epochs=3 --json"
    )

    body = sent(api)
    assert said.startswith("exit: 0")
    assert (body["name"], body["tags"], body["rehearse"]) == ("second try", [], False)
    assert body["config"] == {
        "dataset_ref": {"name": "support", "version": "1.0.0"},
        "learning_rate": 2e-4,
        "shuffle": False,
        "epochs": 3,
    }


def test_paths_are_relative_to_the_file_and_stored_once(dn: Dn, api: Any) -> None:
    folder = Path("jobs")
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"data/{split}.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "reward.py").write_text("def reward(x):\n    return 1.0\n")
    (folder / "job.toml").write_text(
        'trainer_type = "rl"\nmodel = "Qwen/Qwen3-8B"\ncapability_ref = "concise@1.0.0"\n'
        '[config]\nalgorithm = "ppo"\nprompt_dataset_ref = "data"\neval_dataset_ref = "./data"\n'
        'trajectory_dataset_refs = ["old@1", "data/train.jsonl"]\nenvironment = "reward.py"\n'
        'reward_recipe = { name = "reward.py", params = { seconds = 2 } }\n'
    )

    dn("train submit jobs/job.toml")

    body = sent(api)
    config = body["config"]
    assert [each.method for each in api.requests] == ["PUT", "PUT", "GET", "POST"]
    assert body["capability_ref"] == {"name": "concise", "version": "1.0.0"}
    assert config["prompt_dataset_ref"] == config["eval_dataset_ref"]
    assert config["prompt_dataset_ref"]["name"] == "data"
    assert [ref["name"] for ref in config["trajectory_dataset_refs"]] == ["old", "train"]
    source = Path("jobs/reward.py").read_text()
    own = {"source": source, "filename": "reward.py"}
    assert config["environment"] == {"name": "python_v1", "params": own}
    assert config["reward_recipe"]["params"] == {"seconds": 2, **own}


def test_errors_name_the_path_of_the_setting_and_nothing_is_sent(dn: Dn, api: Any) -> None:
    Path("job.toml").write_text(
        JOB.replace("steps = 20", 'steps = "20"\nbatch_size = 1.5\nlerning_rate = 1')
        .replace('name = "first try"', "name = 7\nlearning_rate = 1\nrehears = 3")
        .replace('tags = ["a", "b"]', 'tags = ["a", 2]')
        + "seed = -1\nshuffle = 1\ntrain_on = 'all'\nstop = []\n"
    )

    said = dn("train submit job.toml")

    assert api.requests == []
    assert errors(said) == snapshot("""\
error: job.toml: `name` must be a string, not 7
job.toml: `tags[1]` must be a string, not 2
job.toml: `config.steps` must be a whole number, not "20"
job.toml: `config.shuffle` must be true or false, not 1
job.toml: `config.seed` must be at least 0, not -1
job.toml: `config.batch_size` must be a whole number, not 1.5
job.toml: `config.train_on` must be one of 'all_assistant_messages', 'last_assistant_message' or 'last_assistant_turn', not "all"
job.toml: unknown setting `config.lerning_rate`; did you mean `config.learning_rate`?
job.toml: unknown setting `config.stop`; remove it, or correct its name
job.toml: unknown setting `learning_rate`; did you mean `config.learning_rate`?
job.toml: unknown setting `rehears`; did you mean `rehearse`?
""")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = ", "job.toml is not TOML: Invalid value (at end of document)"),
        (
            "a = 1\na b",
            "job.toml is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 3)",
        ),
        ("", 'job.toml: `trainer_type` must be "sft", "rl" or "eval"'),
        ("trainer_type = ['rl']", 'job.toml: `trainer_type` must be "sft", "rl" or "eval"'),
        ('trainer_type = "sft"\nmodel = "m"', "job.toml: `config` is missing"),
        (
            'trainer_type = "sft"\nmodel = "m"\nconfig = 3',
            "job.toml: `config` must be a table, not 3",
        ),
        (
            JOB.replace("support@1.0.0", "support.jsonl"),
            "job.toml: `config.dataset_ref`: there is no file support.jsonl",
        ),
        (
            JOB.replace("support@1.0.0", "support"),
            "job.toml: `config.dataset_ref`: `support` has no version; write NAME@VERSION, or the path of a file (`dn dataset get support` lists the versions)",
        ),
        (
            JOB.replace('"support@1.0.0"', '{ name = "support" }'),
            "job.toml: `config.dataset_ref.version` is missing",
        ),
        (
            JOB.replace("= 0.5\n", "= inf\n"),
            "job.toml: `config.learning_rate` must be a finite number, not inf",
        ),
        (
            JOB.replace('"b"]', "2026-11-22]"),
            "job.toml: `tags[1]` must not be a date or a time; put it into quotes",
        ),
        ('trainer_type = "rl"\nmodel = "m"\n[config]', "job.toml: `config.algorithm` is missing"),
    ],
)
def test_a_file_that_is_not_a_job_is_refused_in_a_sentence(
    dn: Dn, api: Any, text: str, sentence: str
) -> None:
    Path("job.toml").write_text(text)

    assert errors(dn("train submit job.toml")) == f"error: {sentence}\n"
    assert api.requests == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--set config.steps",
            "`--set config.steps`: write PATH=VALUE, for example `config.learning_rate=2e-4`",
        ),
        ("--set name.x=1", "`--set name.x`: `name` is a single value, not a table"),
        ("--unset config.seed", "`--unset config.seed`: the job does not set `config.seed`"),
        (
            "--set config.sead=1",
            "job.toml: unknown setting `config.sead`; did you mean `config.seed`?",
        ),
        ("--set seed=1", "job.toml: unknown setting `seed`; did you mean `config.seed`?"),
    ],
)
def test_a_change_of_an_unknown_setting_is_refused(
    dn: Dn, api: Any, flags: str, sentence: str
) -> None:
    Path("job.toml").write_text(JOB)

    assert errors(dn(f"train submit job.toml {flags}")) == f"error: {sentence}\n"
    assert api.requests == []


def test_a_clone_is_the_same_job_with_the_shown_changes(
    dn: Dn, api: Any, make_job: Callable[..., dict[str, Any]]
) -> None:
    config = {
        "dataset_ref": {"name": "support", "version": "1.0.0"},
        "split": "train",
        "trajectory_dataset_refs": [],
        "system_prompt": "Be brief.",
        "learning_rate": 1e-4,
        "epochs": 1,
        "strict": False,
    }
    capability = {"name": "concise", "version": "2.0.0", "artifact_id": None}
    api.jobs = [
        make_job(config=config, capability=capability, name="n", tags=["t"], rehearsal=True)
    ]

    said = dn(
        "train clone 01900001-0000-7000-8000-000000000000 --no-rehearse --set config.learning_rate=2e-4 --unset config.epochs "
        "--set config.dataset_ref=support@1.1.0"
    )

    assert sent(api) == {
        "trainer_type": "sft",
        "backend": "tinker",
        "model": "Qwen/Qwen3-8B",
        "rehearse": False,
        "rehearse_first": False,
        "tags": ["t"],
        "name": "n",
        "capability_ref": {"name": "concise", "version": "2.0.0"},
        "config": {
            "dataset_ref": {"name": "support", "version": "1.1.0"},
            "split": "train",
            "trajectory_dataset_refs": [],
            "learning_rate": 2e-4,
            "strict": False,
        },
    }
    assert errors(said) == snapshot("""\
config.dataset_ref: support@1.0.0 -> support@1.1.0
config.learning_rate: 0.0001 -> 0.0002
config.epochs: 1 -> not set
hint: `dn train wait 01900001-0000-7000-8000-000000000000` follows it
""")


def test_an_unchanged_clone_says_so(dn: Dn) -> None:
    assert "nothing is different\n" in errors(
        dn("train clone 01900001-0000-7000-8000-000000000000")
    )


def test_a_clone_refuses_an_invalid_change_by_its_path(dn: Dn, api: Any) -> None:
    said = dn("train clone 01900001-0000-7000-8000-000000000000 --set config.lora_rnk=4")

    assert errors(said) == (
        "error: job 01900001-0000-7000-8000-000000000000: unknown setting `config.lora_rnk`; did you mean `config.lora_rank`?\n"
    )
    assert not [each for each in api.requests if each.method == "POST"]
