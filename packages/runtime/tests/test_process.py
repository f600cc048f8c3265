"""A job as it really runs: a process of its own, the official SDK, a real engine, a real API."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = [{"prompt": f"{n}+1?", "answer": f"{n + 1}"} for n in range(10)]


@pytest.fixture
def sandbox(
    api: Any, served: str, engine: Any, warm_runtime: Any, tmp_path: Path
) -> Callable[..., Any]:
    """Start the runtime on the API's job, with the environment that a runner gives it."""
    api.put(ROWS)
    api.job |= {"rehearsal": True, "trained_model": "Qwen/Qwen3-8B"}
    api.job["config"] |= {"batch_size": 4, "learning_rate": 1e-2, "lora_rank": 4}
    work = tmp_path / "work"
    work.mkdir()

    def start(attempt: int = 1) -> Any:
        return warm_runtime.start(
            ["--job-id", "job-1"],
            {
                "PATH": "/usr/bin:/bin",
                "HOME": str(work),
                "TMPDIR": str(work),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "DREADNODE_SERVER": served,
                "DREADNODE_API_KEY": api.token,
                "DREADNODE_ORGANIZATION": "main",
                "DREADNODE_WORKSPACE": "default",
                "DREADNODE_JOB_ATTEMPT": str(attempt),
                "TINKER_BASE_URL": engine.url,
                "TINKER_API_KEY": engine.KEY,
                "TINKER_TELEMETRY": "0",
            },
            folder=work,
            stderr=subprocess.STDOUT,
        )

    return start


def ends(process: Any) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_a_job_trains_and_leaves_an_adapter_that_plain_peft_loads(
    sandbox: Any, api: Any, tiny_model: Path, tmp_path: Path
) -> None:
    api.job["config"] |= {"epochs": 8, "checkpoint_interval": 10}

    code, output = ends(sandbox())

    assert code == 0, output
    metrics = api.job["metrics"]
    assert metrics["train/steps"] == 24
    assert metrics["train/loss_last"] < metrics["train/loss"][0] - 1
    assert len(api.job["artifacts"]["checkpoints"]) == 3
    adapter = tmp_path / "adapter"
    for path, content in api.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert loads_in_plain_peft(tiny_model, adapter)


def loads_in_plain_peft(base: Path, adapter: Path) -> bool:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    trained = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    return bool(trained) and all(bool(weight.any()) for weight in trained)


def test_a_stopped_and_killed_run_ends_with_the_bits_of_an_unbroken_one(
    sandbox: Any, api: Any
) -> None:
    api.put(ROWS[:3], "exam@1.0.0")
    api.job["config"] |= {
        "epochs": 6,
        "checkpoint_interval": 4,
        "eval_dataset_ref": {"name": "exam", "version": "1.0.0"},
        "eval_interval": 7,
        "learning_rate_schedule": "cosine",
        "warmup_steps": 3,
        "weight_decay": 0.01,
        "grad_clip_norm": 0.3,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_eps": 1e-6,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    code, output = ends(sandbox())
    assert code == 0, output
    metrics, adapter = dict(api.job["metrics"]), dict(api.files)
    api.forget()
    api.files.clear()

    code, output = ends(interrupted(sandbox(1), api, at=5, by=signal.SIGTERM))
    stopped_at = api.told("checkpoint_saved")[-1]["data"]["step"]
    killed, _ = ends(interrupted(sandbox(2), api, at=stopped_at + 6, by=signal.SIGKILL))
    again, output_again = ends(sandbox(3))

    assert code == 75, output
    assert 5 <= stopped_at < 11
    assert killed == -signal.SIGKILL
    assert again == 0, output_again
    starts = [event["data"]["start"] for event in api.told("training_start")]
    assert starts[:2] == [0, stopped_at]
    assert starts[2] > stopped_at
    # Every loss of every step, every evaluation, and the weights themselves.
    assert api.job["metrics"] == metrics
    assert (
        api.files["adapter/adapter_model.safetensors"]
        == (adapter["adapter/adapter_model.safetensors"])
    )


def interrupted(process: Any, api: Any, *, at: int, by: int) -> Any:
    """Have PROCESS sent a signal when it tells that a step is done."""

    def send(event: dict[str, Any]) -> None:
        if event["event_type"] == "step_complete" and event["data"]["step"] >= at:
            api.on_event = lambda _: None
            process.send_signal(by)

    api.on_event = send
    return process


def test_a_job_that_cannot_succeed_reports_why_and_exits_with_1(sandbox: Any, api: Any) -> None:
    api.put([{"text": "nothing"}])

    code, output = ends(sandbox())

    assert code == 1, output
    error = api.told("training_error")[0]
    assert error["data"] == {"code": "data", "fault": "job"}
    assert error["error"].startswith("None of the 1 rows can be trained on")
    assert "Traceback" not in output


def test_a_model_refused_by_the_engine_fails_the_job(sandbox: Any, api: Any) -> None:
    api.job["trained_model"] = "Qwen/Qwen3-32B"

    code, output = ends(sandbox())

    assert code == 1, output
    assert api.told("training_error")[0]["data"]["code"] == "engine_refused"


def test_a_refusal_of_the_engine_is_shown_in_its_own_words(sandbox: Any, api: Any) -> None:
    api.job["config"] |= {"learning_rate": 1e30, "epochs": 4, "checkpoint_interval": 1}

    code, output = ends(sandbox())

    assert code == 1, output
    error = api.told("training_error")[0]
    assert error["data"] == {"code": "engine_refused", "fault": "job"}
    assert error["error"] == (
        "The engine refused the work: The learning rate must be 10 or less, not 1e+30"
    )
    assert api.told("checkpoint_saved") == []
    assert "Traceback" not in output


def test_a_short_outage_of_the_api_changes_nothing(sandbox: Any, api: Any) -> None:
    def leave(event: dict[str, Any]) -> None:
        if event["data"].get("step") == 2:
            api.away_for = 4
            api.on_event = lambda _: None

    api.on_event = leave
    code, output = ends(sandbox())

    assert code == 0, output
    assert [event["seq"] for event in api.events] == list(range(1, len(api.events) + 1))
    assert api.job["metrics"]["train/steps"] == 3


def test_a_rejected_token_ends_the_process_without_output(sandbox: Any, api: Any) -> None:
    api.token = "dnj_another"
    process = sandbox()
    api.token = "dnj_secret"

    code, output = ends(process)

    assert code == 75, output
    assert api.events == []
    assert "dnj_another" not in output


def test_keys_reach_neither_output_nor_events(sandbox: Any, api: Any, engine: Any) -> None:
    code, output = ends(sandbox())

    assert code == 0, output
    told = json.dumps([api.events, api.job]) + output
    told += "".join(content.decode(errors="replace") for content in api.files.values())
    assert api.token not in told
    assert engine.KEY not in told


def test_an_engine_killed_under_a_running_job_changes_only_the_duration(
    sandbox: Any, api: Any, engine: Any
) -> None:
    api.job["config"] |= {"epochs": 6, "checkpoint_interval": 5}
    code, output = ends(sandbox())
    assert code == 0, output
    whole = api.job["metrics"]["train/loss"]
    api.forget()

    def kill(event: dict[str, Any]) -> None:
        if event["data"].get("step") == 5:
            api.on_event = lambda _: None
            engine.start(engine.kill())

    api.on_event = kill
    code, output = ends(sandbox())

    assert code == 0, output
    assert api.job["metrics"]["train/loss"] == whole
