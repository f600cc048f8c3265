"""One job from its record to its end, with an API that answers and a trainer that remembers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dreadnode_runtime.backend.trainer import Adapter
from dreadnode_runtime.commands.train import run_job
from dreadnode_runtime.control.api import Settings, connect
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.errors import JobFailed, TryAgain

SETTINGS = Settings("http://api", "dnj_secret", "main", "default", "job-1", attempt=1)
ROWS = [{"prompt": f"question {n}", "answer": f"answer {n}"} for n in range(6)]


@dataclass
class Runs:
    """Runs the API's job with the fake trainer."""

    api: Any
    trainer: Any
    folder: Path
    stop: Stop

    async def __call__(self, **config: Any) -> None:
        self.api.job["config"] |= {"batch_size": 2, **config}
        async with (
            connect(SETTINGS, transport=httpx2.ASGITransport(self.api.app)) as service,
            Reporter(service, 1, self.stop) as reporter,
        ):
            await run_job(service, reporter, self.stop, self.folder, self.trainer.open)
            await reporter.flush()


@pytest.fixture
def run(api: Any, trainer: Any, tmp_path: Path) -> Runs:
    api.put(ROWS)
    return Runs(api, trainer, tmp_path, Stop())


def types(api: Any) -> list[str]:
    return [event["event_type"] for event in api.events]


async def test_trajectories_are_appended_to_the_training_dataset(
    run: Runs, api: Any, trainer: Any
) -> None:
    api.put(ROWS[:1], "more@1.0.0")
    refs = [{"name": "more", "version": "1.0.0"}]

    await run(trajectory_dataset_refs=refs, shuffle=False)

    (start,), (end,) = api.told("training_start"), api.told("training_end")
    assert f"{len(ROWS) + 1} of {len(ROWS) + 1} rows" in start["message"]
    assert end["artifacts"]["trajectory_datasets"] == ["more@1.0.0"]
    examples = [e for kind, call in trainer.calls if kind == "submit" for b in call[0] for e in b]
    assert [e.dataset for e in examples][-1] == "more@1.0.0"


async def test_trajectories_alone_are_a_valid_dataset(run: Runs, api: Any) -> None:
    ref = api.job["config"]["dataset_ref"]

    await run(dataset_ref=None, trajectory_dataset_refs=[ref])

    (end,) = api.told("training_end")
    assert end["artifacts"]["trajectory_datasets"] == ["talk@1.0.0"]
    assert "dataset" not in end["artifacts"]


async def test_a_job_reports_every_phase_from_start_to_end(run: Runs, api: Any) -> None:
    await run()

    assert types(api) == [
        *("phase", "phase", "training_start", "phase"),
        *["step_complete"] * 3,
        *("phase", "checkpoint_writing", "training_end"),
    ]
    phases = [event["data"]["phase"] for event in api.told("phase")]
    assert phases == ["starting", "validating", "training", "saving"]
    assert api.job["artifacts"] == {
        "checkpoints": ["tinker://run:train:0/weights/final"],
        "latest_checkpoint": "tinker://run:train:0/weights/final",
        "sampler_checkpoint": "tinker://run:train:0/sampler_weights/final",
        "dataset": "talk@1.0.0",
        "adapter": "adapter/",
    }
    assert api.job["metrics"]["train/loss"] == [4.0, 2.0, 1.0]


async def test_the_trainer_is_created_from_the_config(run: Runs, trainer: Any) -> None:
    await run(lora_rank=4, seed=7, adam_beta2=0.99, train_unembed=False)

    opened = trainer.opened_with
    assert opened["base_model"] == "stand-in/tiny"
    assert opened["adapter"] == Adapter(rank=4, seed=7, train_unembed=False)
    assert opened["resume"] is None
    assert opened["optimizer"].beta2 == 0.99


async def test_the_adapters_card_says_that_it_was_a_rehearsal(run: Runs, api: Any) -> None:
    await run(learning_rate=3e-4)

    assert sorted(api.files) == [
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ]
    card = api.files["adapter/README.md"].decode()
    assert "**This is a rehearsal.**" in card
    assert "**not on `Qwen/Qwen3-8B`**" in card
    assert "base_model: stand-in/tiny" in card
    assert "| learning_rate | 0.0003 |" in card
    assert "stand-in/chat-template" in card
    assert "sha256" in card


async def test_the_card_of_a_real_job_names_the_trained_model(run: Runs, api: Any) -> None:
    api.job |= {"rehearsal": False, "trained_model": "Qwen/Qwen3-8B"}
    await run()

    card = api.files["adapter/README.md"].decode()
    assert "base_model: Qwen/Qwen3-8B" in card
    assert "ehears" not in card
    assert "| Format | qwen3 |" in card


async def test_the_named_splits_are_read(run: Runs, api: Any) -> None:
    api.put(ROWS[:2], split="test")
    api.put(ROWS[:3], split="validation")

    ref = {"name": "talk", "version": "1.0.0"}
    await run(split="test", eval_split="validation", eval_dataset_ref=ref)

    assert "2 of 2 rows" in api.told("training_start")[0]["message"]
    assert api.job["metrics"]["eval/num_examples"] == 3
    assert "| Data | talk@1.0.0, split test, sha256 " in api.files["adapter/README.md"].decode()


async def test_a_damaged_split_is_downloaded_again(run: Runs, api: Any) -> None:
    with pytest.raises(TryAgain, match="arrived damaged"):
        await run(split="gone")


async def test_dropped_rows_are_counted_named_and_warned_about(run: Runs, api: Any) -> None:
    api.put([{"text": "no"}, *ROWS, {"prompt": "no"}, {"text": "no"}])
    await run(max_sequence_length=60)

    warnings = [e["message"] for e in api.told("log") if e["level"] == "warning"]
    assert warnings == [
        (
            "2 of 9 rows left out: no conversation: the row has `text` only; use `format: text` to "
            "train on plain text (rows 1, 9)"
        ),
        "1 of 9 rows left out: no answer (row 8)",
    ]
    assert "6 of 9 rows" in api.told("training_start")[0]["message"]


async def test_truncated_rows_are_reported(run: Runs, api: Any) -> None:
    await run(max_sequence_length=35)

    assert "6 rows are longer than 35 tokens" in api.told("log")[0]["message"]


async def test_the_configs_system_prompt_is_part_of_every_row(run: Runs, trainer: Any) -> None:
    await run()
    without = len(trainer.calls[0][1][0][0][0].tokens)
    again = type(trainer)(trainer.tokenizer)
    run.trainer = again
    await run(system_prompt="Be brief.")

    assert len(again.calls[0][1][0][0][0].tokens) > without


async def test_a_second_attempt_resumes_from_the_newest_checkpoint(
    run: Runs, api: Any, trainer: Any
) -> None:
    checkpoint = "tinker://run:train:0/weights/step-000002"
    api.job["artifacts"] = {"latest_checkpoint": checkpoint, "checkpoints": [checkpoint]}
    api.job["metrics"] = {
        "steps": [1, 2, 3],
        "train/loss": [9.0, 8.0, 7.0],
        "train/num_sequences": [2, 2, 2],
        "train/num_tokens": [40, 40, 40],
    }
    await run(epochs=2)

    assert trainer.opened_with["resume"] == checkpoint
    assert [event["data"]["step"] for event in api.told("step_complete")] == [3, 4, 5, 6]
    assert api.job["metrics"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert api.job["metrics"]["train/loss"] == [9.0, 8.0, 1.0, 0.5, 0.25, 0.125]
    assert api.job["artifacts"]["checkpoints"] == [checkpoint, "tinker://run:train:0/weights/final"]


async def test_a_job_whose_checkpoint_is_missing_starts_over(
    run: Runs, api: Any, trainer: Any
) -> None:
    api.job["artifacts"] = {"latest_checkpoint": "tinker://run:train:0/weights/step-000002"}
    trainer.gone = True
    await run()

    assert "training starts from step 0" in api.told("log")[0]["message"]
    assert [event["data"]["step"] for event in api.told("step_complete")] == [1, 2, 3]


async def test_a_cancelled_job_ends_with_a_checkpoint_and_without_an_adapter(
    run: Runs, api: Any
) -> None:
    def cancel(event: dict[str, Any]) -> None:
        if event["event_type"] == "step_complete":
            api.job["cancel_requested_at"] = "2026-01-01T00:00:00Z"

    api.on_event = cancel
    await run(epochs=50)

    end = api.told("training_end")[0]
    assert end["data"]["cancelled"] is True
    assert end["artifacts"]["latest_checkpoint"].endswith(f"step-{end['data']['step']:06d}")
    assert api.files == {}


async def test_a_cancelled_job_that_must_hurry_reports_its_cancellation(
    run: Runs, api: Any
) -> None:
    def cancel(event: dict[str, Any]) -> None:
        if event["event_type"] == "step_complete":
            api.job["cancel_requested_at"] = "2026-01-01T00:00:00Z"
            run.stop.terminated = True

    api.on_event = cancel
    await run(epochs=50)

    assert [end["data"]["cancelled"] for end in api.told("training_end")] == [True]


async def test_a_terminated_job_reports_no_final_event(run: Runs, api: Any) -> None:
    def terminate(event: dict[str, Any]) -> None:
        if event["event_type"] == "step_complete":
            run.stop.terminated = True

    api.on_event = terminate
    await run(epochs=50)

    assert api.told("checkpoint_saved")
    assert api.told("training_end") == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trainer_type": "dpo"}, "Unknown trainer type `dpo`"),
        ({"config": {"dataset_ref": {"name": "none", "version": "1"}}}, "none@1 cannot be read"),
    ],
)
async def test_impossible_settings_fail_the_job(
    run: Runs, api: Any, change: dict[str, Any], sentence: str
) -> None:
    api.job |= change

    with pytest.raises(JobFailed, match=sentence):
        await run()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "The dataset has no rows"),
        ([{"text": "x"}] * 7, r"None of the 7 rows .* \(rows 1, 2, 3, 4, 5 …\)"),
        ([[1]], "Line 1 is not a JSON object"),
    ],
)
async def test_a_dataset_without_trainable_rows_is_refused(
    run: Runs, api: Any, rows: list[Any], sentence: str
) -> None:
    api.put(rows)

    with pytest.raises(JobFailed, match=sentence):
        await run()


async def test_an_unreachable_engine_does_not_fail_the_job(
    run: Runs, api: Any, trainer: Any
) -> None:
    async def away(step: int) -> None:
        if step == 1:
            raise TryAgain("The engine could not do the work: connection refused")

    trainer.before_answer = away
    with pytest.raises(TryAgain):
        await run()

    assert api.told("training_error") == []


async def test_the_best_weights_are_stored_beside_the_last_ones(
    run: Runs, api: Any, trainer: Any
) -> None:
    trainer.eval_loss_of = lambda step: 1.0 if step == 2 else 2.0
    api.put(ROWS[:2], "exam@1")
    exam = {"name": "exam", "version": "1"}
    await run(epochs=2, eval_dataset_ref=exam, eval_interval=2)

    assert "best/adapter_model.safetensors" in api.files
    assert "step 2, the best evaluation" in api.files["best/README.md"].decode()
    assert "best evaluation" not in api.files["adapter/README.md"].decode()
    artifacts = api.job["artifacts"]
    assert artifacts["eval_dataset"] == "exam@1"
    assert artifacts["best_adapter"] == "best/"
    assert artifacts["best_checkpoint"].endswith("step-000002")
    assert api.job["metrics"]["eval/loss_history"] == [1.0, 2.0, 2.0]


async def test_the_last_weights_are_the_best_checkpoint_if_no_evaluation_was_better(
    run: Runs, api: Any, trainer: Any
) -> None:
    trainer.eval_loss_of = lambda step: 9.0 - step
    api.put(ROWS[:2], "exam@1")
    await run(epochs=2, eval_dataset_ref={"name": "exam", "version": "1"}, eval_interval=2)

    artifacts = api.job["artifacts"]
    assert artifacts["best_checkpoint"] == artifacts["latest_checkpoint"]
    assert artifacts["best_checkpoint"].endswith("/final")
    assert "best_adapter" not in artifacts


async def test_a_strict_job_is_refused_for_one_unusable_row(run: Runs, api: Any) -> None:
    api.put([*ROWS, {"prompt": "no"}])

    with pytest.raises(JobFailed, match=r"1 of 7 cannot be used: no answer \(row 7\)$"):
        await run(strict=True)


async def test_a_strict_job_names_all_its_unusable_rows(run: Runs, api: Any) -> None:
    api.put([*ROWS, {"prompt": "no"}, {"text": "x"}, {"text": "y"}])

    with pytest.raises(JobFailed, match=r"3 of 9 cannot be used; 1 of them: no answer \(row 7\)$"):
        await run(strict=True)


async def test_a_rehearsal_ends_after_its_steps_with_the_settings_of_the_whole_job(
    run: Runs, api: Any, trainer: Any
) -> None:
    api.job["rehearse_steps"] = 2

    await run(epochs=3)

    assert trainer.names.count("submit") == 2
    assert api.job["metrics"]["train/steps"] == 2
