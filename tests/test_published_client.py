"""The published client of version 2, unmodified, against a whole server of ours.

It cannot be installed beside our own packages, whose names it has too. Give it an environment of
its own and name that environment's Python in DREADNODE_PUBLISHED_CLIENT; else this is skipped, and
`packages/api/tests/test_published_clients.py` holds what that client needs of our answers.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .server import MODEL, Said, Server

PYTHON = os.environ.get("DREADNODE_PUBLISHED_CLIENT", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="DREADNODE_PUBLISHED_CLIENT does not name the client's Python"
)
Old = Callable[..., Said]
ROW = '{"prompt": "When does the ferry leave?", "response": "At 6:15, from pier 4"}\n'
RL = ("train", "rl", "--model", MODEL, "--capability", "none@0.0.0", "--algorithm", "ppo")
SFT = ("train", "sft", "--model", MODEL, "--dataset", "ferry@1.0.0")


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """The key that the first start has saved."""
    profiles = yaml.safe_load((server.config / "config.yaml").read_text())
    return str(profiles["servers"][profiles["active"]]["api_key"])


@pytest.fixture(scope="module")
def environment(server: Server, key: str) -> dict[str, str]:
    """The client's environment, with a home of its own."""
    home = server.folder / "home"
    home.mkdir()
    (server.folder / "ferry.jsonl").write_text(ROW * 4)
    assert server.dn("dataset", "push", "ferry.jsonl", "ferry@1.0.0").code == 0
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "DREADNODE_SERVER": f"http://127.0.0.1:{server.ports[0]}",
        "DREADNODE_API_KEY": key,
        "DREADNODE_ORGANIZATION": "main",
        "DREADNODE_WORKSPACE": "default",
    }


@pytest.fixture
def old(server: Server, environment: dict[str, str]) -> Old:
    """Run a command of the published `dn`."""

    def call(*arguments: str, program: str = "dn", scope: bool = True) -> Said:
        strangers = () if scope else ("DREADNODE_",)
        done = subprocess.run(
            [Path(PYTHON).with_name(program), *arguments],
            env={k: v for k, v in environment.items() if not k.startswith(strangers)},
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def data(said: Said) -> Any:
    assert said.code == 0, said
    return json.loads(said.out)


def test_it_logs_in_and_works_with_the_profile_that_it_saves(
    old: Old, server: Server, key: str
) -> None:
    address = f"http://127.0.0.1:{server.ports[0]}"

    login = old("login", key, "--server", address, scope=False)
    listed = old("train", "list", scope=False)

    assert login.code == 0, login
    assert "main/default" in login.out
    assert listed.code == 0, listed


def test_it_reads_the_catalog(old: Old) -> None:
    catalog = data(old("train", "catalog", "--search", MODEL, "--limit", "100", "--json"))
    table = old("train", "catalog", "--family", "qwen", "--algorithm", "ppo")

    assert MODEL in {each["tinker_id"] for each in catalog["models"]}
    assert table.code == 0
    assert "match" in table.out


def test_it_pushes_a_capability_and_trains_with_it(old: Old, server: Server) -> None:
    desk = server.folder / "desk"
    (desk / "agents").mkdir(parents=True)
    (desk / "capability.yaml").write_text(
        'schema: 1\nname: desk\nversion: "1.0.0"\ndescription: "The harbour desk"\n'
    )
    (desk / "agents" / "desk.md").write_text("---\nname: desk\n---\nYou begin with Ahoy.\n")

    pushed = old("capability", "push", "desk")
    again = old("capability", "push", "desk")
    job = data(old(*SFT, "--capability", "desk@1.0.0", "--steps", "1", "--wait", "--json"))

    assert pushed.code == 0, pushed
    assert "Pushed main/desk@1.0.0" in pushed.out
    assert "already up to date" in again.out
    assert "desk@1.0.0" in old("capability", "list").out
    assert "desk@1.0.0" in old("capability", "info", "desk").out
    assert job["status"] == "completed"
    assert job["capability"]["name"] == "desk"
    assert job["config"]["system_prompt"] == "You begin with Ahoy."
    assert "You begin with Ahoy." in server.dn("capability", "get", "desk").out


def test_it_fetches_and_deletes_a_capability_and_cannot_publish_it(
    old: Old, server: Server
) -> None:
    pushed = server.dn("capability", "push", "ferry.jsonl", "lamp@1.0.0")
    fetched = old("capability", "pull", "lamp@1.0.0", "--output", "fetched")
    public = old("capability", "publish", "lamp")
    private = old("capability", "unpublish", "lamp")
    readme = old("capability", "info", "lamp", "--readme")
    deleted = old("capability", "delete", "lamp@1.0.0", "--yes")
    gone = old("capability", "delete", "lamp@1.0.0", "--yes")

    assert pushed.code == 0, pushed
    assert fetched.code == 0, fetched
    assert (server.folder / "fetched" / "agents" / "lamp.md").read_text().endswith(ROW)
    assert public.code == 1
    assert "422: `is_public`: this server cannot make anything public" in public.out
    assert private.code == 0, private
    assert "No README" in readme.out
    assert deleted.code == 0, deleted
    assert gone.code == 1
    assert "404: This organization has no capability `lamp`" in gone.out


def test_it_lists_existing_items_with_any_parameter_of_its_list(old: Old, server: Server) -> None:
    assert server.dn("capability", "push", "ferry.jsonl", "buoy@1.0.0").code == 0

    datasets = old("dataset", "list", "--include-public")
    found = data(old("dataset", "list", "--search", "FERR", "--json"))
    none = data(old("dataset", "list", "--search", "nothing-like-it", "--json"))
    capabilities = old("capability", "list", "--include-public", "--search", "buoy")

    assert "ferry" in datasets.out
    assert [each["name"] for each in found] == ["ferry"]
    assert none == []
    assert "buoy@1.0.0" in capabilities.out


def test_it_follows_a_job_to_its_artifacts(old: Old) -> None:
    job = data(old(*SFT, "--capability", "none@0.0.0", "--steps", "2", "--tag", "x", "--json"))

    waited = old("train", "wait", job["id"], "--poll-interval-sec", "0.5")
    logs = old("train", "logs", job["id"])
    artifacts = data(old("train", "artifacts", job["id"]))
    listed = data(old("train", "list", "--json"))

    assert waited.code == 0, waited
    assert logs.code == 0, logs
    assert " info " in logs.out
    assert artifacts["adapter"] == "adapter/"
    assert artifacts["checkpoints"]
    assert [each["status"] for each in listed if each["id"] == job["id"]] == ["completed"]
    assert data(old("train", "get", job["id"], "--json"))["metrics"]["train/steps"] == 2


def test_it_cancels_a_job_and_retries_it(old: Old, environment: dict[str, str]) -> None:
    job = data(old(*SFT, "--capability", "none@0.0.0", "--steps", "100000", "--json"))

    cancelled = old("train", "cancel", job["id"], "--yes")
    waited = old("train", "wait", job["id"], "--poll-interval-sec", "0.5")
    twice = old("train", "cancel", job["id"], "--yes")
    said = old("-c", RETRY, job["id"], program="python")

    assert cancelled.code == 0, cancelled
    assert (waited.code, twice.code) == (1, 1)
    assert "cancelled" in waited.out
    assert "409: " in twice.out
    assert said.code == 0, said
    assert json.loads(said.out) == {"status": "queued", "context": [None, None]}


RETRY = """
import json, os, sys
from dreadnode.app.api.client import ApiClient
client = ApiClient(os.environ["DREADNODE_SERVER"], api_key=os.environ["DREADNODE_API_KEY"])
job = client.retry_training_job("main", "default", sys.argv[1])
assert job.id != sys.argv[1]
context = client.get_training_job_rl_context("main", "default", job.id)
client.cancel_training_job("main", "default", job.id)
told = [context.capability_entry_prompt, context.world]
print(json.dumps({"status": job.status, "context": told}))
"""


def test_it_trains_with_rl(old: Old) -> None:
    recipe = ("--reward-recipe", "contains_v1", "--reward-params", '{"needle": "a"}')
    sizes = ("--steps", "1", "--num-rollouts", "2", "--batch-size", "2", "--max-new-tokens", "8")

    job = data(old(*RL, "--prompt-dataset", "ferry@1.0.0", *recipe, *sizes, "--wait", "--json"))

    assert job["status"] == "completed"
    assert job["algorithm"] == "ppo"
    assert job["prompt_dataset_ref"] == {"name": "ferry", "version": "1.0.0"}
    assert job["metrics"]["train/steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("train", "sft", "--model", "Qwen/Qwen3-8", "--dataset", "ferry@1.0.0"),
            "Unknown training base model 'Qwen/Qwen3-8'.\nDid you mean one of: ",
        ),
        (("train", "sft", "--model", MODEL, "--dataset", "no@1.0.0"), "422: "),
        ((*SFT, "--lora-alpha", "32"), "lora_alpha"),
        ((*SFT, "--lora-rank", "4096"), "lora_rank"),
        (("train", "get", "no-such-job"), "404: "),
        (("train", "list", "--organization", "nowhere"), "404: "),
        (("train", "list", "--workspace", "nowhere"), "404: "),
        ((*RL, "--task", "main/puzzle@1.0.0", "--prompt-dataset", "ferry@1.0.0"), "422: "),
        (("train", "list", "--server", "{server}", "--api-key", "dn_wrong"), "401: "),
    ],
)
def test_a_refusal_is_shown_as_our_message(
    old: Old, environment: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    given = [each.format(server=environment["DREADNODE_SERVER"]) for each in arguments]
    capability = ("--capability", "none@0.0.0") if "sft" in given else ()

    said = old(*given, *capability)

    assert said.code == 1
    assert words in said.out
    assert "server's log" not in said.out


def test_its_dataset_push_is_refused_and_names_our_command(old: Old, server: Server) -> None:
    folder = server.folder / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text(ROW)
    (folder / "dataset.yaml").write_text("name: rows\nversion: 1.0.0\nformat: jsonl\n")

    said = old("dataset", "push", "rows")

    assert said.code == 1
    assert "dn dataset push" in said.out
