"""`dn train list | get | wait | logs | artifacts | cancel | retry`, by transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from dreadnode.cli import output
from dreadnode.training.jobs import TrainingJob
from inline_snapshot import snapshot

Dn = Callable[[str], str]
MakeJob = Callable[..., dict[str, Any]]
PROGRESS = {"step": 6, "steps": 36, "tokens": 4242, "loss": 2.34567, "seconds_left": 95.0}


def running(make_job: MakeJob, step: int, **fields: Any) -> dict[str, Any]:
    progress = {**PROGRESS, "step": step, "loss": 3.0 - step / 36}
    return make_job(status="running", phase="training", attempt=1, progress=progress, **fields)


def stdout(said: str) -> str:
    return said.partition("--- stdout\n")[2].partition("--- stderr\n")[0]


@pytest.mark.parametrize("flags", ["", "--json"])
def test_a_watched_list_needs_a_terminal(dn: Dn, api: Any, flags: str) -> None:
    assert "`--watch` shows a table in a terminal" in dn(f"train list --watch {flags}")
    assert api.requests == []


def ago(**time: float) -> str:
    return (output.now() - timedelta(**time)).isoformat()


def test_a_list_fits_80_columns_and_marks_rehearsals(
    dn: Dn, api: Any, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evaluated = {**PROGRESS, "step": 36, "loss": 1.23456, "eval_reward": 0.51234}
    api.jobs = [
        running(
            make_job, 6, rehearsal=True, trained_model="stand-in/x", name="harbour desk",
            created_at=ago(minutes=5), created_by_user={"username": "ada"},
        ),
        make_job(
            id="0190f000-0000-7000-8000-000000000000", status="completed", progress=evaluated,
            config={"learning_rate": 4e-5}, model="meta-llama/Llama-3.1-8B-Instruct",
            name="a name that is much longer than the rest", created_at=ago(days=2),
            created_by_user={"username": "grace"},
        ),
    ]  # fmt: skip

    assert dn("train list") == snapshot("""\
exit: 0
--- stdout
ID        STATUS     MODEL     STEPS   LOSS  EVAL    LR     USER   AGE  NAME
01900001  running    rehears…  6/36   2.833                 ada    5m   harbour…
0190f000  completed  Llama-3…  36/36  1.235  0.5123  4e-05  grace  2d   a name …
--- stderr
""")
    monkeypatch.setenv("COLUMNS", "200")
    assert "Llama-3.1-8B-Instruct" in dn("train list")
    api.jobs = [make_job(id=f"0190000{digit}-0000-7000-8000-000000000000") for digit in range(9)]
    assert max(map(len, stdout(dn("train list")).splitlines())) <= 80


def test_a_list_is_filtered_by_the_server(dn: Dn, api: Any) -> None:
    dn("train list --kind rl --name a --tag b --user ada --model m/x --status failed")

    params = dict(api.requests[-1].url.params)
    assert params == {
        "page": "1", "page_size": "20", "trainer_type": "rl", "name": "a", "tag": "b",
        "username": "ada", "model": "m/x", "status": "failed", "evaluations": "true",
    }  # fmt: skip


@pytest.mark.parametrize("handle", ["01900001", "0190000", "harbour", "last"])
def test_a_job_is_found_by_id_prefix_by_name_and_as_last(
    dn: Dn, api: Any, make_job: MakeJob, handle: str
) -> None:
    api.jobs = [make_job(name="harbour")]

    for command in ("get", "logs", "artifacts", "checkpoints", "cancel", "retry"):
        assert dn(f"train {command} {handle}").startswith("exit: 0"), command
    assert "01900001-0000-7000-8000-000000000000" in dn(f"train get {handle}")


def test_a_handle_that_matches_several_jobs_or_none_is_refused(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [make_job(name="a"), make_job(id="01900002-0000-7000-8000-000000000000", name="a")]

    said = dn("train cancel a") + dn("train cancel 0190") + dn("train cancel b")
    api.jobs = []
    said += dn("train cancel last")

    assert said == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `a` means 2 jobs: `01900001-0000-7000-8000-000000000000`, `01900002-0000-7000-8000-000000000000`; use the id of one
exit: 2
--- stdout
--- stderr
error: `0190` means 2 jobs: `01900001-0000-7000-8000-000000000000`, `01900002-0000-7000-8000-000000000000`; use the id of one
exit: 1
--- stdout
--- stderr
error: no job in this workspace has the id or the name `b`; see `dn train list`
exit: 1
--- stdout
--- stderr
error: you have no job in this workspace yet
""")
    assert not [each for each in api.requests if each.method == "POST"]


def evaluated(make_job: MakeJob, **fields: Any) -> dict[str, Any]:
    metrics = {"eval/steps": [2, 4, 6], "eval/reward_history": [0.5, 0.4, 0.3]}
    return make_job(status="completed", metrics=metrics, **fields)


def test_a_better_earlier_evaluation_is_named_with_the_commands_that_use_it(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [evaluated(make_job)]
    api.files = {"adapter/adapter_config.json": b"{}"}
    hint = (
        "best: step 2, eval reward 0.5; `dn train download 01900001-0000-7000-8000-000000000000 "
        "--best` and `dn train chat 01900001-0000-7000-8000-000000000000 --checkpoint best` use "
        "those weights"
    )

    for command in ("get", "wait", "download"):
        assert f"hint: {hint}\n" in dn(f"train {command} 01900001-0000-7000-8000-000000000000")
    assert "best      step 2, eval reward 0.5\n" in dn("train get last")
    assert "best: step 2, eval reward 0.5; `--checkpoint best` talks to those" in dn(
        "train chat last --message hi"
    )


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({"eval/steps": [2, 4], "eval/loss_history": [0.5, 0.7]}, 2),
        ({"eval/steps": [2, 4], "eval/loss_history": [0.7, 0.5]}, None),
        ({"eval/steps": [2, 4], "eval/reward_history": [0.5, 0.5]}, None),
        ({"eval/steps": [], "eval/reward_history": []}, None),
        ({"eval/loss": 0.5}, None),
    ],
)
def test_only_a_strictly_better_earlier_evaluation_counts(
    make_job: MakeJob, metrics: dict[str, Any], best: int | None
) -> None:
    found = TrainingJob.model_validate(make_job(metrics=metrics)).better_evaluation

    assert (found and found.step) == best


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"status": "failed", "error_code": "attempts_used_up"}, "dn train retry"),
        ({"status": "cancelled"}, "dn train retry"),
        ({"status": "failed", "error": "the reward raised an error"}, "dn train clone"),
    ],
)
def test_the_hint_after_a_failure_depends_on_its_cause(
    dn: Dn, api: Any, make_job: MakeJob, fields: dict[str, Any], command: str
) -> None:
    api.jobs = [make_job(**fields)]

    said = dn("train wait 01900001-0000-7000-8000-000000000000")

    assert ("dn train retry" in said, "dn train clone" in said) == (
        command.endswith("retry"),
        command.endswith("clone"),
    )


def test_an_ended_job_without_a_checkpoint_says_so(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [make_job(status="failed")]

    said = dn("train checkpoints last")
    download = dn("train download last")

    assert "failed without a checkpoint\n" in said
    assert "failed without an adapter" in download


def test_with_json_an_error_is_a_json_object_on_stderr(
    dn: Dn, api: Any, make_refusal: Callable[..., Any]
) -> None:
    api.failures = [make_refusal(409, "conflict_error", "It has ended", loc=["body", "x"])]

    refused = dn("train cancel 01900001-0000-7000-8000-000000000000 --json")
    wrong = dn("train get --json")

    assert refused.startswith("exit: 1\n--- stdout\n--- stderr\n")
    assert json.loads(refused.splitlines()[-1])["error"] == {
        "message": "It has ended", "type": "conflict_error", "status": 409, "request_id": None,
        "errors": [{"loc": ["body", "x"], "msg": "It has ended"}],
    }  # fmt: skip
    assert json.loads(wrong.splitlines()[-1])["error"] == {
        "message": "JOB is missing",
        "type": "InputError",
    }


def test_a_list_as_json_is_an_array_of_complete_jobs(dn: Dn) -> None:
    jobs = json.loads(stdout(dn("train list --json")))

    assert [(each["id"], each["rehearsal"]) for each in jobs] == [
        ("01900001-0000-7000-8000-000000000000", False)
    ]


def test_an_empty_list_of_jobs_is_reported_and_not_an_error(dn: Dn, api: Any) -> None:
    api.jobs = []

    assert dn("train list --status failed") == snapshot("""\
exit: 0
--- stdout
--- stderr
no jobs
""")


def test_a_job_is_shown_completely_with_one_field_per_line(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [running(make_job, 6, name="two\nlines \x1b[31mred", tags=["a", "b"])]

    assert dn("train get 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
name      two lines \\u001b[31mred
status    running (training)
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
steps     6/36
loss      2.833
attempt   1
tags      a, b
created   2026-11-22 03:00:00
--- stderr
""")


def test_an_unknown_job_is_one_sentence(dn: Dn) -> None:
    assert dn("train get 01900009-0000-7000-8000-000000000000") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: There is no job of this id in this workspace
""")


def test_an_id_with_slashes_is_sent_as_an_id(dn: Dn, api: Any) -> None:
    dn("train get ../../datasets")
    said = dn("train get ..")

    assert [each.url.raw_path for each in api.requests] == snapshot(
        [
            b"/api/v1/org/main/ws/default/training/jobs?page=1&page_size=2&name=..%2F..%2Fdatasets&evaluations=true",
            b"/api/v1/org/main/ws/default/training/jobs?page=1&page_size=2&name=..&evaluations=true",
        ]
    )
    assert said == snapshot("""\
exit: 1
--- stdout
--- stderr
error: no job in this workspace has the id or the name `..`; see `dn train list`
""")


def test_waiting_reports_phases_and_steps_and_ends_with_the_job(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [
        make_job(),
        make_job(status="running", phase="starting", rehearsal=True),
        *(running(make_job, step, rehearsal=True) for step in range(1, 37)),
        make_job(status="completed", rehearsal=True, artifacts={"adapter": "adapter/"}),
    ]

    assert dn("train wait 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    completed
model     Qwen/Qwen3-8B (rehearsal on a stand-in)
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00
--- stderr
queued
starting (rehearsal)
training (rehearsal), step 1/36, loss 2.9722
training (rehearsal), step 4/36, loss 2.8889
training (rehearsal), step 8/36, loss 2.7778
training (rehearsal), step 11/36, loss 2.6944
training (rehearsal), step 15/36, loss 2.5833
training (rehearsal), step 18/36, loss 2.5000
training (rehearsal), step 22/36, loss 2.3889
training (rehearsal), step 26/36, loss 2.2778
training (rehearsal), step 29/36, loss 2.1944
training (rehearsal), step 33/36, loss 2.0833
training (rehearsal), step 36/36, loss 2.0000
completed (rehearsal)
hint: `dn train download 01900001-0000-7000-8000-000000000000` downloads the adapter, `dn train chat 01900001-0000-7000-8000-000000000000` talks to it
""")


def test_waiting_continues_through_a_restart_of_the_server(
    dn: Dn, api: Any, make_job: MakeJob, make_refusal: Callable[..., httpx2.Response]
) -> None:
    api.jobs = [make_job(status="completed")]
    api.failures = [
        *[httpx2.ConnectError("refused")] * 6,
        make_refusal(500, "internal_server_error", "starting"),
        httpx2.ReadError("dropped"),
    ]

    assert dn("train wait 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    completed
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00
--- stderr
the server does not respond; waiting for it
completed
""")


def test_waiting_for_a_failing_job_fails_with_its_reason(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [make_job(status="failed", error="the loss became NaN at step 3")]

    assert dn("train wait 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 1
--- stdout
id        01900001-0000-7000-8000-000000000000
status    failed
error     the loss became NaN at step 3
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00
--- stderr
failed
hint: `dn train logs 01900001-0000-7000-8000-000000000000` shows its log, `dn train clone 01900001-0000-7000-8000-000000000000 --set config.…=…` submits it again with a change
error: job 01900001-0000-7000-8000-000000000000 failed: the loss became NaN at step 3
""")


def test_waiting_ends_at_the_timeout_and_the_job_continues(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [running(make_job, 1)]

    assert dn("train wait 01900001-0000-7000-8000-000000000000 --timeout 0") == snapshot("""\
exit: 1
--- stdout
--- stderr
training, step 1/36, loss 2.9722
error: job 01900001-0000-7000-8000-000000000000 is still running after 0 s and keeps running
""")


def test_ctrl_c_during_a_wait_keeps_the_job_running_and_says_so(
    dn: Dn, api: Any, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.jobs = [running(make_job, 1)]

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)

    assert dn("train wait 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 130
--- stdout
--- stderr
training, step 1/36, loss 2.9722
the job keeps running: training, step 1/36, loss 2.9722
hint: `dn train watch 01900001-0000-7000-8000-000000000000` follows it, `dn train cancel 01900001-0000-7000-8000-000000000000` stops it
""")


def test_logs_are_lines_with_time_level_and_message(dn: Dn, api: Any) -> None:
    api.logs = [
        {"timestamp": "2026-11-22T03:00:01Z", "level": "info", "message": "72 rows", "data": {}},
        {"timestamp": "2026-11-22T03:00:02Z", "level": "warning", "message": "[/bold] stays"},
    ]

    assert dn("train logs 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
2026-11-22 03:00:01  info     72 rows
2026-11-22 03:00:02  warning  [/bold] stays
--- stderr
""")


def test_artifacts_are_listed_by_name(dn: Dn, api: Any) -> None:
    api.artifacts = {"checkpoints": ["tinker://a", "tinker://b"], "adapter": "adapter/"}

    assert dn("train artifacts 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
checkpoints  tinker://a
             tinker://b
adapter      adapter/
--- stderr
""")


def test_a_failed_job_is_shown_with_the_last_lines_of_its_log(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    lines = ["step 1", "ZeroDivisionError: \x1b[31mdivision by zero"]
    api.jobs = [make_job(status="failed", error="The reward raised", error_log=lines)]

    assert dn("train get 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    failed
error     The reward raised
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00

The last lines of its log:
  step 1
  ZeroDivisionError: \\u001b[31mdivision by zero
--- stderr
""")


def test_cancelling_a_running_job_says_that_it_saves_first(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [running(make_job, 6, cancel_requested_at="2026-11-22T03:01:00Z")]

    assert dn("train cancel 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900001-0000-7000-8000-000000000000
status    running (training)
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
steps     6/36
loss      2.833
attempt   1
created   2026-11-22 03:00:00
--- stderr
hint: it saves a checkpoint first; `dn train wait 01900001-0000-7000-8000-000000000000` waits for that
""")
    assert api.asked == [
        "POST /org/main/ws/default/training/jobs/01900001-0000-7000-8000-000000000000/cancel"
    ]


def test_a_retry_names_the_new_job_and_where_it_starts(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [
        make_job(
            id="01900002-0000-7000-8000-000000000000",
            retry_of="01900001-0000-7000-8000-000000000000",
            start_step=20,
        )
    ]

    assert dn("train retry 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900002-0000-7000-8000-000000000000
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
retry of  01900001-0000-7000-8000-000000000000
starts    from the checkpoint of step 20
created   2026-11-22 03:00:00
--- stderr
hint: `dn train wait 01900002-0000-7000-8000-000000000000` follows it
""")
    assert api.requests[-1].content == b""


def test_a_retry_of_a_job_without_a_checkpoint_says_that_it_starts_over(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [
        make_job(
            id="01900002-0000-7000-8000-000000000000",
            retry_of="01900001-0000-7000-8000-000000000000",
            start_step=0,
        )
    ]

    assert dn("train retry 01900001-0000-7000-8000-000000000000") == snapshot("""\
exit: 0
--- stdout
id        01900002-0000-7000-8000-000000000000
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
retry of  01900001-0000-7000-8000-000000000000
starts    from step 0
created   2026-11-22 03:00:00
--- stderr
job 01900001-0000-7000-8000-000000000000 had no checkpoint, so the retry starts at step 0
hint: `dn train wait 01900002-0000-7000-8000-000000000000` follows it
""")


def test_a_retry_from_the_start_is_requested_in_its_body(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [
        make_job(
            id="01900002-0000-7000-8000-000000000000",
            retry_of="01900001-0000-7000-8000-000000000000",
            start_step=0,
        )
    ]

    said = dn("train retry 01900001-0000-7000-8000-000000000000 --from-start")

    assert json.loads(api.requests[-1].content) == {"from_start": True}
    assert "starts    from step 0" in said
    assert said.endswith(
        "--- stderr\nhint: `dn train wait 01900002-0000-7000-8000-000000000000` follows it\n"
    )
