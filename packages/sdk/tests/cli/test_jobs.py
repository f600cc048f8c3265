"""`dn train list | get | wait | logs | artifacts | cancel | retry`, by transcripts."""

# ruff: noqa: E501 - a transcript is as wide as it is

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from inline_snapshot import snapshot

Dn = Callable[[str], str]
MakeJob = Callable[..., dict[str, Any]]
PROGRESS = {"step": 6, "steps": 36, "tokens": 4242, "loss": 2.34567, "seconds_left": 95.0}


def running(make_job: MakeJob, step: int, **fields: Any) -> dict[str, Any]:
    progress = {**PROGRESS, "step": step, "loss": 3.0 - step / 36}
    return make_job(status="running", phase="training", attempt=1, progress=progress, **fields)


def stdout(said: str) -> str:
    return said.partition("--- stdout\n")[2].partition("--- stderr\n")[0]


def test_a_list_tells_rehearsals_from_real_jobs(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [
        running(make_job, 6, rehearsal=True, trained_model="stand-in/x", name="harbour desk"),
        make_job(id="job-0", status="failed", error="out of memory"),
    ]

    assert dn("train list") == snapshot("""\
exit: 0
--- stdout
ID     STATUS              MODEL                                    STEPS  LOSS    CREATED              NAME
job-1  running (training)  Qwen/Qwen3-8B (rehearsal on stand-in/x)  6/36   2.8333  2026-11-22 03:00:00  harbour desk
job-0  failed              Qwen/Qwen3-8B                                           2026-11-22 03:00:00
--- stderr
""")


def test_a_list_as_json_is_an_array_of_whole_jobs(dn: Dn) -> None:
    jobs = json.loads(stdout(dn("train list --json")))

    assert [(each["id"], each["rehearsal"]) for each in jobs] == [("job-1", False)]


def test_no_jobs_is_said_and_is_not_an_error(dn: Dn, api: Any) -> None:
    api.jobs = []

    assert dn("train list --status failed") == snapshot("""\
exit: 0
--- stdout
--- stderr
no jobs
""")


def test_a_job_is_shown_whole_on_one_line_per_field(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [running(make_job, 6, name="two\nlines \x1b[31mred", tags=["a", "b"])]

    assert dn("train get job-1") == snapshot("""\
exit: 0
--- stdout
id        job-1
name      two lines  [31mred
status    running (training)
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
steps     6/36
loss      2.8333
attempt   1
tags      a, b
created   2026-11-22 03:00:00
--- stderr
""")


def test_an_unknown_job_is_one_sentence(dn: Dn) -> None:
    assert dn("train get job-9") == snapshot("""\
exit: 1
--- stdout
--- stderr
error: There is no job of this id in this workspace
""")


def test_an_id_that_is_a_path_stays_an_id(dn: Dn, api: Any) -> None:
    dn("train get ../../datasets")
    said = dn("train get ..")

    assert [each.url.raw_path for each in api.requests] == snapshot(
        [b"/api/v1/org/main/ws/default/training/jobs/..%2F..%2Fdatasets"]
    )
    assert said == snapshot("""\
exit: 2
--- stdout
--- stderr
error: `..` is not a valid name or id
""")


def test_waiting_tells_phases_and_steps_and_ends_with_the_job(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [
        make_job(),
        make_job(status="running", phase="starting", rehearsal=True),
        *(running(make_job, step, rehearsal=True) for step in range(1, 37)),
        make_job(status="completed", rehearsal=True, artifacts={"adapter": "adapter/"}),
    ]

    assert dn("train wait job-1") == snapshot("""\
exit: 0
--- stdout
id        job-1
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
hint: `dn train download job-1` fetches the adapter, `dn train chat job-1` talks with it
""")


def test_waiting_goes_on_while_the_server_is_being_restarted(
    dn: Dn, api: Any, make_job: MakeJob, make_refusal: Callable[..., httpx2.Response]
) -> None:
    api.jobs = [make_job(status="completed")]
    api.failures = [
        *[httpx2.ConnectError("refused")] * 6,
        make_refusal(500, "internal_server_error", "starting"),
        httpx2.ReadError("dropped"),
    ]

    assert dn("train wait job-1") == snapshot("""\
exit: 0
--- stdout
id        job-1
status    completed
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00
--- stderr
the server does not answer; waiting for it
completed
""")


def test_waiting_for_a_job_that_fails_fails_with_its_reason(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [make_job(status="failed", error="the loss became NaN at step 3")]

    assert dn("train wait job-1") == snapshot("""\
exit: 1
--- stdout
id        job-1
status    failed
error     the loss became NaN at step 3
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00
--- stderr
failed
hint: `dn train logs job-1` tells what it did, `dn train retry job-1` repeats it
error: job job-1 failed: the loss became NaN at step 3
""")


def test_waiting_ends_when_the_time_is_up_and_the_job_goes_on(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [running(make_job, 1)]

    assert dn("train wait job-1 --timeout 0") == snapshot("""\
exit: 1
--- stdout
--- stderr
training, step 1/36, loss 2.9722
error: job job-1 is still running after 0 s; it goes on
""")


def test_ctrl_c_while_waiting_leaves_the_job_alone_and_says_so(
    dn: Dn, api: Any, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.jobs = [running(make_job, 1)]

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)

    assert dn("train wait job-1") == snapshot("""\
exit: 130
--- stdout
--- stderr
training, step 1/36, loss 2.9722
hint: the job continues: `dn train wait job-1` follows it, `dn train cancel job-1` stops it
""")


def test_logs_are_lines_of_time_level_and_message(dn: Dn, api: Any) -> None:
    api.logs = [
        {"timestamp": "2026-11-22T03:00:01Z", "level": "info", "message": "72 rows", "data": {}},
        {"timestamp": "2026-11-22T03:00:02Z", "level": "warning", "message": "[/bold] stays"},
    ]

    assert dn("train logs job-1") == snapshot("""\
exit: 0
--- stdout
2026-11-22 03:00:01  info     72 rows
2026-11-22 03:00:02  warning  [/bold] stays
--- stderr
""")


def test_artifacts_are_shown_by_name(dn: Dn, api: Any) -> None:
    api.artifacts = {"checkpoints": ["tinker://a", "tinker://b"], "adapter": "adapter/"}

    assert dn("train artifacts job-1") == snapshot("""\
exit: 0
--- stdout
checkpoints  tinker://a
checkpoints  tinker://b
adapter      adapter/
--- stderr
""")


def test_a_failed_job_is_shown_with_the_last_lines_of_its_log(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    lines = ["step 1", "ZeroDivisionError: \x1b[31mdivision by zero"]
    api.jobs = [make_job(status="failed", error="The reward raised", error_log=lines)]

    assert dn("train get job-1") == snapshot("""\
exit: 0
--- stdout
id        job-1
status    failed
error     The reward raised
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
created   2026-11-22 03:00:00

The last lines of its log:
  step 1
  ZeroDivisionError:  [31mdivision by zero
--- stderr
""")


def test_cancelling_a_running_job_says_that_it_saves_first(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [running(make_job, 6, cancel_requested_at="2026-11-22T03:01:00Z")]

    assert dn("train cancel job-1") == snapshot("""\
exit: 0
--- stdout
id        job-1
status    running (training)
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
steps     6/36
loss      2.8333
attempt   1
created   2026-11-22 03:00:00
--- stderr
hint: it saves a checkpoint first; `dn train wait job-1` waits for that
""")
    assert api.asked == ["POST /org/main/ws/default/training/jobs/job-1/cancel"]


def test_a_retry_names_the_new_job_and_where_it_begins(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [make_job(id="job-2", retry_of="job-1", start_step=20)]

    assert dn("train retry job-1") == snapshot("""\
exit: 0
--- stdout
id        job-2
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
retry of  job-1
begins    goes on from the checkpoint of step 20
created   2026-11-22 03:00:00
--- stderr
hint: `dn train wait job-2` follows it
""")
    assert api.requests[-1].content == b""


def test_a_retry_of_a_job_without_a_checkpoint_says_that_it_starts_over(
    dn: Dn, api: Any, make_job: MakeJob
) -> None:
    api.jobs = [make_job(id="job-2", retry_of="job-1", start_step=0)]

    assert dn("train retry job-1") == snapshot("""\
exit: 0
--- stdout
id        job-2
status    queued
model     Qwen/Qwen3-8B
dataset   support@1.0.0
settings  lora_rank 16
retry of  job-1
begins    starts over from step 0
created   2026-11-22 03:00:00
--- stderr
job job-1 had not saved a checkpoint, so its steps are taken again from step 0
hint: `dn train wait job-2` follows it
""")


def test_a_retry_from_the_start_is_wished_in_its_body(dn: Dn, api: Any, make_job: MakeJob) -> None:
    api.jobs = [make_job(id="job-2", retry_of="job-1", start_step=0)]

    said = dn("train retry job-1 --from-start")

    assert json.loads(api.requests[-1].content) == {"from_start": True}
    assert "begins    starts over from step 0" in said
    assert said.endswith("--- stderr\nhint: `dn train wait job-2` follows it\n")
