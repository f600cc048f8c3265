"""Whole transcripts: `dn`, the client, HTTP, the API, SQLite, the dispatcher, and back."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import asyncio
import json
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from dreadnode import ApiClient, AsyncApiClient
from dreadnode.config import resolve
from dreadnode.errors import ConflictError, UnknownModelError
from dreadnode.training.jobs import SftConfig, SftRequest
from inline_snapshot import snapshot

Dn = Any
FAIL, SLOW = 13, 21
MODEL = "--model Qwen/Qwen3-8B"


@pytest.fixture
def dataset(dn: Dn) -> str:
    """A dataset of three rows, one of which has no answer."""
    rows = [{"prompt": "Where?", "response": "Pier 4"}, {"prompt": "When?"}, {"response": "Noon"}]
    Path("harbour.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = dn.run("dataset push harbour.jsonl harbour@1.0.0")
    assert code == 0, err
    return "harbour@1.0.0"


def test_the_first_start_logs_its_user_in(dn: Dn) -> None:
    assert dn("whoami") == snapshot("""\
exit: 0
--- stdout
server        <server>
user          admin
email         admin@localhost
role          admin
organization  main
workspace     default
profile       local
--- stderr
""")


def test_the_documented_refusal_is_shown_word_for_word(dn: Dn, dataset: str) -> None:
    before = dn.json("train list")

    assert dn(f"train sft --model meta-llama/Llama-3.1-8B-Instruc --dataset {dataset}") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: Unknown training base model 'meta-llama/Llama-3.1-8B-Instruc'.
Did you mean one of: meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B?
""")
    assert dn.json("train list") == before


def test_jobs_read_a_pushed_folder_of_splits(dn: Dn) -> None:
    folder = Path("tides")
    folder.mkdir()
    (folder / "train.csv").write_text('prompt,response\nHigh?,"Noon, today"\n')
    (folder / "validation.json").write_text('[\n{"prompt": "Low?",\n"response": "Six"}\n]')

    pushed = dn("dataset push tides tides@1.0.0 --split bad=nothing.csv")
    pushed += dn("dataset push tides tides@1.0.0")
    read = dn("dataset read tides@1.0.0") + dn("dataset read tides@1.0.0 --split validation")
    job = dn.json(f"train sft {MODEL} --dataset tides@1.0.0 --eval-split validation --rehearse")

    assert "error: nothing.csv cannot be read" in pushed
    assert "stored tides as tides@1.0.0: 2 rows, " in pushed
    assert '{"prompt": "High?", "response": "Noon, today"}\n' in read
    assert '{"prompt": "Low?", "response": "Six"}\n' in read
    assert [(d["role"], d["split"]) for d in job["preflight"]["datasets"]] == [
        ("train", "train"),
        ("eval", "validation"),
    ]


def test_a_job_file_is_submitted_and_its_job_cloned_with_a_change(dn: Dn) -> None:
    dn("train init sft")

    refused = dn("train submit job.toml --set config.learning_rate=7 --rehearse")
    job = dn.json("train submit job.toml --set config.steps=1 --rehearse")
    code, out, err = dn.run(
        f"train clone {job['id']} --set config.seed=7 --unset config.steps --json"
    )

    assert refused == snapshot("""\
exit: 2
--- stdout
--- stderr
error: job.toml: `config.learning_rate` must be at most 1, not 7
""")
    assert code == 0, err
    again = json.loads(out)
    assert "config.steps: 1 -> not set" in err
    assert "config.seed: 0 -> 7" in err
    assert "config.epochs: not set -> 1" in err
    expected = {**job["config"], "seed": 7, "epochs": 1}
    assert again["config"] == {k: v for k, v in expected.items() if k != "steps"}
    assert (again["rehearsal"], again["id"] != job["id"]) == (True, True)


def test_invalid_jobs_are_refused_before_anything_runs(dn: Dn, dataset: str) -> None:
    said = dn("train sft --model meta-llama/Llama-3.1-8B --dataset harbour@1.0.0")
    said += dn(f"train sft {MODEL} --dataset nothing@1")
    said += dn(f"train sft {MODEL} --dataset {dataset} --lora-rank 4096")
    said += dn(f"train sft {MODEL} --dataset {dataset} --capability none@9")
    Path("plain.jsonl").write_text('{"text": "no answer"}\n')
    said += dn(f"train sft {MODEL} --dataset plain.jsonl")

    assert said == snapshot("""\
exit: 1
--- stdout
--- stderr
error: This server's engine has no weights for `meta-llama/Llama-3.1-8B`, which hosted Tinker retired on 2026-06-12 in favour of `Qwen/Qwen3.5-9B-Base`; add `--rehearse` to try the job on a small stand-in
exit: 1
--- stdout
--- stderr
error: This organization has no dataset `nothing`; see `dn dataset list`
exit: 2
--- stdout
--- stderr
error: `--lora-rank` must be at most 1,024, not 4096
exit: 1
--- stdout
--- stderr
error: This organization has no capability `none`; see `dn capability list`, or leave `capability_ref` out
exit: 1
--- stdout
--- stderr
stored plain.jsonl as plain@af38df028fb0: 1 row, 22 bytes
error: None of the 1 rows has an answer to train on
""")


def test_a_job_runs_from_submission_to_adapter(dn: Dn, dataset: str) -> None:
    code, out, err = dn.run(
        f"train sft {MODEL} --dataset {dataset} --steps 4 --name 'first try' --wait"
    )
    job = dn.json("train list")[0]["id"]

    assert code == 0
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (shown["id"], shown["name"], shown["status"]) == (job, "first try", "completed")
    assert (shown["steps"], shown["loss"]) == ("4/4", "0.5")
    assert "learning_rate 0.0001" in shown["settings"]
    # What is said between depends on how fast the machine is.
    first, dropped, *_, last, hint = err.splitlines()
    assert first == f"submitted job {job}: 2 of 3 rows, 20 tokens"
    assert dropped == "dropped 1 row: no answer (row 2)"
    assert last == "completed, step 4/4, loss 0.5000"
    assert (
        hint
        == f"hint: `dn train download {job}` downloads the adapter, `dn train chat {job}` talks to it"
    )
    assert dn(f"train download {job} --to mine") == snapshot("""\
exit: 0
--- stdout
mine
--- stderr
mine/adapter_config.json  2 bytes
""")
    assert Path("mine/adapter_config.json").read_bytes() == b"{}"
    assert dn(f"train artifacts {job}") == snapshot("""\
exit: 0
--- stdout
adapter      adapter/
checkpoints  tinker://a/final
--- stderr
""")


def test_watch_reports_everything_from_the_start_and_logs_only_messages(
    dn: Dn, dataset: str
) -> None:
    job = dn.json(f"train sft {MODEL} --dataset {dataset} --steps 2 --rehearse")["id"]

    assert dn(f"train watch {job}") == snapshot("""\
exit: 0
--- stdout
<time>  status            queued
<time>  phase             waiting for capacity, in the queue
<time>  status            running
<time>  phase             starting
<time>  phase             training
<time>  training_start    Training starts
<time>  step_complete     1/2, loss 2
<time>  step_complete     2/2, loss 1
<time>  training_end
<time>  status            The job is complete
--- stderr
""")
    assert dn(f"train logs {job}") == snapshot("""\
exit: 0
--- stdout
<time>  info     Training starts
<time>  info     The job is complete
--- stderr
""")
    assert dn(f"train logs {job} --follow --level warning") == snapshot("""\
exit: 0
--- stdout
--- stderr
""")
    first, last = dn.json(f"train logs {job}")
    assert [
        dn.json(f"train logs {job} --since {moment}")
        for moment in (last["timestamp"], "2020-01-01T00:00:00", "2120-01-01")
    ] == [[last], [first, last], []]
    assert dn(f"train logs {job} --tail 1 --query nothing") == snapshot("""\
exit: 0
--- stdout
--- stderr
no log lines match
""")


def test_a_failing_job_ends_watch_and_wait_with_its_reason(dn: Dn, dataset: str) -> None:
    job = dn.json(f"train sft {MODEL} --dataset {dataset} --steps 4 --seed {FAIL}")["id"]

    code, out, err = dn.run(f"train watch {job} --json")
    assert code == 1
    assert json.loads(err)["error"]["message"] == f"job {job} failed: The loss is not a number"
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(
        range(1, len(out.splitlines()) + 1)
    )
    assert dn.run(f"train wait {job}")[0] == 1
    assert dn(f"train cancel {job}") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The job `<id 1>` is already failed and cannot be cancelled
""")


def test_a_cancelled_job_can_be_retried(dn: Dn, dataset: str) -> None:
    job = dn.json(f"train sft {MODEL} --dataset {dataset} --steps 500 --seed {SLOW}")["id"]
    dn.run(f"train cancel {job}")
    code, _, err = dn.run(f"train wait {job}")
    assert (code, err.splitlines()[-1]) == (1, f"error: job {job} cancelled")

    repeated = dn.json(f"train retry {job}")
    assert repeated["id"] != job
    dn.run(f"train cancel {repeated['id']}")
    dn.run(f"train wait {repeated['id']}")


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_waiting_continues_through_a_restart_of_the_api(
    dn: Dn, dataset: str, server: Any, command: str
) -> None:
    job = dn.json(f"train sft {MODEL} --dataset {dataset} --steps 20 --seed {SLOW}")["id"]
    killer = threading.Timer(1.5, server.kill, ["dreadnode_api serve"])
    killer.start()

    code, out, err = dn.run(f"train {command} {job}")

    killer.join()
    assert code == 0, err
    steps = [line for line in out.splitlines() if "step_complete" in line]
    assert [line.split()[3] for line in steps] == (
        [f"{step}/20," for step in range(1, 21)] if command == "watch" else []
    )


def test_a_live_view_survives_the_death_of_the_api_and_ctrl_c_leaves_the_job_running(
    dn: Dn, dataset: str, server: Any, open_terminal: Any
) -> None:
    job = dn.json(f"train sft {MODEL} --dataset {dataset} --steps 500 --seed {SLOW}")["id"]
    terminal = open_terminal("train", "watch", job)

    shown = terminal.until(lambda new: "└" in new and terminal.highest(r"(\d+)/500", new) > 3)
    server.kill("dreadnode_api serve")
    terminal.until(lambda new: "connection lost" in new)
    # No event arrives before the view is connected again.
    seen = terminal.highest(r"(\d+)/500")
    terminal.until(lambda new: terminal.highest(r"(\d+)/500", new) > seen + 10)
    terminal.interrupt()
    last = terminal.until(lambda new: "dn train cancel" in new)

    assert "tokens" in shown
    assert "the job keeps running: training, step" in last
    assert "\x1b[3" not in terminal.screen  # NO_COLOR: neither foreground nor italics.
    assert dn.json(f"train get {job}")["status"] == "running"
    dn.run(f"train cancel {job}")


def test_a_watched_list_shows_new_jobs_until_ctrl_c(
    dn: Dn, dataset: str, open_terminal: Any
) -> None:
    terminal = open_terminal("train", "list", "--watch", "--name", "live")
    terminal.until(lambda new: "no jobs" in new)

    dn.json(f"train sft {MODEL} --dataset {dataset} --steps 1 --name live")

    terminal.until(lambda new: "completed" in new)
    terminal.interrupt()
    assert terminal.process.wait(30) == 0


def test_tokens_are_created_shown_once_listed_and_revoked(dn: Dn, server: Any) -> None:
    code, token, err = dn.run("token create nightly --role reader --days 30")
    token = token.strip()
    assert code == 0, err
    flags = f"--server {server.url} --api-key {token}"

    assert dn.run(f"train list {flags}")[0] == 0
    refused = dn(f"token create more --role admin {flags}")
    assert refused == snapshot("""\
exit: 1
--- stdout
--- stderr
error: This needs the role `admin`, and this API token has `reader`; ask an administrator of the organization
""")
    listed = next(each for each in dn.json("token list") if each["name"] == "nightly")
    assert token not in json.dumps(listed)
    assert token.startswith(listed["hint"].rstrip("…."))

    assert dn.run(f"token revoke {listed['id']}")[0] == 0
    deadline = time.monotonic() + 30
    while dn.run(f"train list {flags}")[0] == 0:
        assert time.monotonic() < deadline
    assert dn(f"train list {flags}") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The API token is not valid; it may be mistyped, revoked or expired
hint: `dn login` saves a token; `dn whoami` shows which one is used
""")


def test_a_version_of_a_dataset_never_changes(dn: Dn, dataset: str) -> None:
    Path("harbour.jsonl").write_text('{"prompt": "a", "response": "b"}\n')

    assert dn("dataset push harbour.jsonl harbour@1.0.0") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: Version `1.0.0` of `harbour` exists with other rows, and a version never changes; push a new version
""")
    assert dn("dataset get harbour") == snapshot("""\
exit: 0
--- stdout
DATASET        FORMAT  SPLITS  ROWS  BYTES  CREATED
harbour@1.0.0  jsonl   train      3     84  <age>
--- stderr
""")


def test_a_capability_is_downloaded_completely_and_deleted_for_good(dn: Dn) -> None:
    Path("desk.md").write_text("You begin with Ahoy.")
    said = dn("capability push desk.md desk@1.0.0")
    said += dn("capability download desk@1.0.0")
    with tarfile.open("desk-1.0.0.tar.gz") as tar:
        names = tar.getnames()
    said += dn("capability delete desk@1.0.0")
    Path("desk.md").write_text("You end with Ahoy.")

    again = dn("capability push desk.md desk@1.0.0")

    assert said.count("exit: 0") == 3
    assert names == ["capability.yaml", "agents/desk.md"]
    assert again == snapshot("""\
exit: 1
--- stdout
--- stderr
error: Version `1.0.0` of the capability `desk` existed with other content, and a version never changes; push a new version
""")


def test_a_dataset_and_a_job_are_deleted_once_nothing_uses_them(dn: Dn) -> None:
    Path("tides.jsonl").write_text('{"prompt": "High?", "response": "Noon"}\n')
    dn("dataset push tides.jsonl gone@1.0.0")
    job = dn.json(f"train sft {MODEL} --dataset gone@1.0.0 --seed {SLOW} --rehearse")["id"]
    refused = dn("dataset delete gone@1.0.0") + dn(f"train delete {job}")
    dn(f"train cancel {job}")
    dn(f"train wait {job}")

    unknown = dn(f"train delete {job} --checkpoint nothing")
    deleted = dn("dataset delete gone@1.0.0") + dn(f"train delete {job}")
    after = dn(f"train get {job}") + dn(f"train sft {MODEL} --dataset gone@1.0.0 --rehearse")

    assert " and uses `gone@1.0.0`; wait for its end or cancel it" in refused
    assert "; cancel it before you delete it" in refused
    assert "has no checkpoint `nothing`; see `dn train checkpoints" in unknown
    assert "deleted dataset gone@1.0.0: 40 bytes" in deleted
    assert "with its log, files and checkpoints" in deleted
    assert after.count("exit: 1") == 2
    assert "`gone@1.0.0` was deleted; push the same files" in after


def test_a_user_of_another_organization_sees_nothing(dn: Dn, server: Any) -> None:
    said = dn(f"train list --server {server.url} --api-key dn_{'x' * 43} --organization main")
    said += dn("train list --organization other")
    said += dn("train get 00000000-0000-0000-0000-000000000000")

    assert said == snapshot("""\
exit: 1
--- stdout
--- stderr
error: The API token is not valid; it may be mistyped, revoked or expired
hint: `dn login` saves a token; `dn whoami` shows which one is used
exit: 1
--- stdout
--- stderr
error: This API token does not give access to an organization `other`
exit: 1
--- stdout
--- stderr
error: There is no job `<id 1>` in this workspace; see `dn train list`
""")


def test_the_client_works_in_a_program(dn: Dn, dataset: str) -> None:
    name, version = dataset.split("@")
    request = SftRequest(
        model="Qwen/Qwen3-8B",
        config=SftConfig(dataset_ref={"name": name, "version": version}, steps=2),  # type: ignore[arg-type]
    )
    with ApiClient.to(resolve()) as client:
        first = client.create_training_job(request, idempotency_key="once")
        again = client.create_training_job(request, idempotency_key="once")
        assert again.id == first.id
        with pytest.raises(ConflictError):
            client.create_training_job(
                request.model_copy(update={"name": "other"}), idempotency_key="once"
            )
        with pytest.raises(UnknownModelError) as caught:
            client.create_training_job(request.model_copy(update={"model": "Qwen/Qwen3-8"}))
        assert caught.value.suggestions[0] == "Qwen/Qwen3-8B"

        done = client.wait_for_training_job(first.id, interval=0.1)
        assert done.progress is not None
        assert done.progress.step == 2
        assert done.config["learning_rate"] == 1e-4

    async def told() -> list[str]:
        async with AsyncApiClient.to(resolve()) as other:
            return [event.type async for event in other.watch_training_job(first.id)]

    assert asyncio.run(told()).count("step_complete") == 2
