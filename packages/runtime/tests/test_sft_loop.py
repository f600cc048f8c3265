"""The supervised loop, against a trainer that remembers what it was asked for."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import ConfigMismatch, SftConfig, read_config
from dreadnode_runtime.jobs.outcome import Outcome, checkpoint_name, step_of_checkpoint
from dreadnode_runtime.sft.loop import Plan, train
from dreadnode_runtime.sft.metric_history import History


class Told:
    """Stands in for the reporter, and keeps what is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.on_event: Callable[[str], None] = lambda event_type: None

    def report(self, event_type: str, **event: Any) -> None:
        self.events.append((event_type, event))
        self.on_event(event_type)

    def phase(self, phase: str, reason: str | None = None) -> None:
        self.report("phase", data={"phase": phase, "reason": reason})

    def log(self, message: str, *, level: str = "info", **data: Any) -> None:
        self.report("log", message=message, level=level, data=data)

    def of(self, event_type: str) -> list[dict[str, Any]]:
        return [event for kind, event in self.events if kind == event_type]


@pytest.fixture
def told() -> Told:
    return Told()


def config(**given: Any) -> SftConfig:
    ref = {"name": "talk", "version": "1"}
    settings = {"dataset_ref": ref, "max_sequence_length": 2048, **given}
    return read_config(SftConfig, complete("sft", settings))


@pytest.fixture
def plan(example: Any) -> Callable[..., Plan]:
    def make(rows: int = 6, eval_rows: int = 0, **given: Any) -> Plan:
        if eval_rows:
            given["eval_dataset_ref"] = {"name": "exam", "version": "1"}
        settings = config(**{"batch_size": 2, **given})
        return Plan(
            settings,
            [[example(row + 1, length=6 + row)] for row in range(rows)],
            eval_rows=[[example(row + 1)] for row in range(eval_rows)],
        )

    return make


async def run(
    plan: Plan, trainer: Any, told: Any, stop: Stop | None = None, start: int = 0
) -> Outcome:
    history = History.from_metrics({}, start, lambda _: plan.config.learning_rate)
    outcome = Outcome(start, start)
    await train(plan, trainer, told, stop or Stop(), history, outcome)
    return outcome


async def test_the_next_step_is_submitted_before_the_last_one_is_awaited(
    plan: Any, trainer: Any, told: Told, eventually: Any
) -> None:
    async def answer_only_when_the_next_one_is_there(step: int) -> None:
        await eventually(lambda: trainer.steps >= min(step + 2, 6))

    trainer.before_answer = answer_only_when_the_next_one_is_there
    outcome = await run(plan(epochs=2), trainer, told)

    assert outcome.step == 6


async def test_saving_a_checkpoint_does_not_delay_training(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=2, checkpoint_interval=2), trainer, told)

    assert trainer.names == [
        *("submit", "submit", "save step-000002"),
        *("submit", "submit", "save step-000004"),
        *("submit", "submit"),
    ]


async def test_an_optimizer_step_includes_every_micro_batch(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(rows=7, gradient_accumulation_steps=2), trainer, told)

    sizes = [[len(batch) for batch in batches] for _, (batches, _) in trainer.calls]
    assert sizes == [[2, 2], [2, 1]]


async def test_each_step_reports_the_mean_loss_of_its_trained_tokens(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=1), trainer, told)

    steps = told.of("step_complete")
    assert [step["metrics"]["steps"] for step in steps] == [[1], [2], [3]]
    assert [step["metrics"]["train/loss"] for step in steps] == [[4.0], [2.0], [1.0]]
    assert [step["metrics"]["train/num_sequences"] for step in steps] == [[2], [2], [2]]
    assert set(steps[0]["metrics"]) == {
        *("steps", "train/loss"),
        *("train/num_sequences", "train/num_tokens"),
    }
    assert steps[-1]["data"]["tokens_total"] == sum(length - 1 for length in range(6, 12))
    assert steps[-1]["data"]["seconds_left"] == 0


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 4),
        ({"epochs": 3}, 12),
        ({"steps": 5, "epochs": 3}, 5),
        ({"steps": 50, "epochs": 1}, 4),
        ({"steps": 9}, 9),
        ({"gradient_accumulation_steps": 3}, 2),
    ],
)
def test_a_job_runs_its_configured_number_of_steps(given: dict[str, int], steps: int) -> None:
    assert config(batch_size=2, **given).total_steps(rows=7) == steps


async def test_a_cancelled_job_stops_after_its_step_and_keeps_a_checkpoint(
    plan: Any, trainer: Any, told: Told
) -> None:
    stop = Stop()

    def cancel(event_type: str) -> None:
        stop.cancelled |= event_type == "step_complete"

    told.on_event = cancel
    outcome = await run(plan(epochs=20), trainer, told, stop)

    assert outcome.step == 2
    assert outcome.checkpoints == ["tinker://run:train:0/weights/step-000002"]
    assert told.of("checkpoint_saved")[0]["data"]["step"] == 2


async def test_a_checkpoint_is_not_saved_twice(plan: Any, trainer: Any, told: Told) -> None:
    stop = Stop()
    told.on_event = lambda event_type: setattr(stop, "terminated", True)

    await run(plan(epochs=20, checkpoint_interval=1), trainer, told, stop)

    assert len(told.of("checkpoint_saved")) <= 2
    assert len(set(trainer.names) - {"submit"}) == len(trainer.names) - trainer.names.count(
        "submit"
    )


async def test_a_resumed_run_continues_where_it_stopped(
    plan: Any, trainer: Any, told: Told
) -> None:
    whole = type(trainer)()
    await run(plan(epochs=3), whole, Told())
    trainer.steps = 4

    await run(plan(epochs=3), trainer, told, start=4)

    rows = [[e.row for b in batches for e in b] for _, (batches, _) in trainer.calls]
    expected = [[e.row for b in batches for e in b] for _, (batches, _) in whole.calls]
    assert rows == expected[4:]
    assert told.of("step_complete")[0]["metrics"]["steps"] == [5]


async def test_a_loss_that_is_not_finite_ends_the_job_and_names_the_rows(
    plan: Any, trainer: Any, told: Told, nan: float
) -> None:
    trainer.loss_of = lambda step, e: nan if step >= 3 and e.row == 5 else 1.0

    with pytest.raises(JobFailed, match=r"not finite in row 5: .*the checkpoint of step \d+"):
        await run(plan(epochs=20, checkpoint_interval=2), trainer, told)

    assert len(asyncio.all_tasks()) <= 4


async def test_a_loss_far_above_the_first_is_warned_about_once_with_step_and_values(
    plan: Any, trainer: Any, told: Told
) -> None:
    trainer.loss_of = lambda step, e: [2.0, 5.9, 2.0, 21144.5, 9.0, 3.0][step]

    outcome = await run(plan(epochs=2), trainer, told)

    assert outcome.step == 6
    assert told.of("log") == [
        {
            "message": "The loss of step 4 is 21,144.5000, more than 3 times the first "
            "loss, 2.0000; if it does not fall again, lower the learning rate",
            "level": "warning",
            "data": {"step": 4},
        }
    ]


@pytest.mark.parametrize(("before", "warned"), [([None, 2.0, 3.0], [5]), ([2.0, 7.0, 3.0], [])])
async def test_a_resumed_run_compares_with_the_first_loss_of_the_job_and_does_not_warn_again(
    plan: Any, trainer: Any, told: Told, before: list[float | None], warned: list[int]
) -> None:
    columns = {"train/loss": before, "train/num_sequences": [2] * 3, "train/num_tokens": [9] * 3}
    history = History.from_metrics({"steps": [1, 2, 3], **columns}, 3, lambda _: 1e-4)
    trainer.steps, trainer.loss_of = 3, lambda step, e: [5.0, 7.0, 8.0][step - 3]

    await train(plan(epochs=2), trainer, told, Stop(), history, Outcome(3, 3))

    assert [line["data"]["step"] for line in told.of("log")] == warned


def test_a_resumed_history_ends_at_the_checkpoint_and_uses_the_latest_report() -> None:
    metrics = {
        "steps": [1, 2, 3, 2, 3],
        "train/loss": [4.0, 2.0, 1.0, 2.5, 1.5],
        "train/num_sequences": [2] * 5,
        "train/num_tokens": [10] * 5,
    }

    history = History.from_metrics(metrics, 2, lambda _: 1e-4)

    assert history.loss == [4.0, 2.5]
    assert history.tokens == [10, 10]


def test_final_metrics_contain_the_documented_names() -> None:
    history = History()
    for loss in (4.0, 1.0, 2.0, 3.0):
        history.add(loss, 1e-4, 2, 10)

    metrics = history.final_metrics(rows=6, rows_per_step=2, accumulation=1)

    assert metrics == {
        "train/steps": 4,
        "train/num_examples": 6,
        "train/num_sequences_processed": 8,
        "train/num_tokens_processed": 40,
        "train/gradient_accumulation_steps": 1,
        "train/epochs_completed": 1,
        "steps": [1, 2, 3, 4],
        "train/loss": [4.0, 1.0, 2.0, 3.0],
        "train_loss": [4.0, 1.0, 2.0, 3.0],
        "train/learning_rate": [1e-4] * 4,
        "learning_rate": [1e-4] * 4,
        "train/num_sequences": [2] * 4,
        "train/num_tokens": [10] * 4,
        "train/loss_last": 3.0,
        "train/loss_mean": 2.5,
        "train/loss_best": 1.0,
    }


def test_a_checkpoints_path_contains_its_step() -> None:
    path = f"tinker://run:train:0/weights/{checkpoint_name(120)}"

    assert step_of_checkpoint(path) == 120
    with pytest.raises(ValueError, match="does not name a step"):
        step_of_checkpoint("tinker://run:train:0/weights/final")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"lora_alpha": 32}, "The setting `lora_alpha` is unknown to this runtime"),
        ({"learning_rate": "fast"}, "The setting `learning_rate` cannot be read"),
    ],
)
def test_a_setting_unknown_to_the_runtime_is_an_internal_error(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigMismatch, match=sentence):
        config(**given)


def test_the_runtime_has_no_defaults() -> None:
    with pytest.raises(ConfigMismatch, match="is missing; install the same version of the API"):
        read_config(SftConfig, {"dataset_ref": {"name": "talk", "version": "1"}, "epochs": 1})


async def test_a_stopped_loop_leaves_no_unawaited_work(plan: Any, trainer: Any, told: Told) -> None:
    stop = Stop()
    stop.cancelled = True

    outcome = await run(plan(), trainer, told, stop)

    assert trainer.calls == []
    assert outcome.step == 0
    assert len(asyncio.all_tasks()) == 1


async def test_a_checkpoint_is_reported_after_the_next_loss_verifies_it(
    plan: Any, trainer: Any, told: Told, nan: float
) -> None:
    trainer.loss_of = lambda step, e: 1.0 if step < 4 else nan

    with pytest.raises(JobFailed, match=r"step 5 is not finite in all of its 2 rows.*step 2 is"):
        await run(plan(epochs=3, checkpoint_interval=2), trainer, told)

    assert "save step-000004" in trainer.names
    assert [event["data"]["step"] for event in told.of("checkpoint_saved")] == [2]


async def test_a_checkpoint_is_reported_as_pending_and_again_with_its_size_and_losses(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=2, eval_rows=2, eval_interval=4, checkpoint_interval=2), trainer, told)

    kinds = [kind for kind, _ in told.events if kind.startswith("checkpoint")]
    assert kinds == ["checkpoint_writing", "checkpoint_saved"] * 2
    assert told.of("checkpoint_writing")[0]["data"] == {"step": 2, "name": "step-000002"}
    saved = [event["data"] for event in told.of("checkpoint_saved")]
    assert [data["bytes"] for data in saved] == [4096, 4096]
    assert [data["metrics"] for data in saved] == [
        {"train/loss": 2.0},
        {"train/loss": 0.5, "eval/loss": 0.25},
    ]


async def test_evaluations_run_at_their_interval_and_at_the_end(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=2, eval_rows=3, eval_interval=4), trainer, told)

    evals = told.of("eval_complete")
    assert [event["data"]["step"] for event in evals] == [4, 6]
    assert evals[0]["metrics"] == {
        "eval/loss": 0.25,
        "eval/num_examples": 3,
        "eval/steps": [4],
        "eval/loss_history": [0.25],
    }
    assert [len(what) for name, what in trainer.calls if name == "evaluate"] == [2, 1] * 2


async def test_without_an_interval_one_evaluation_runs_at_the_end(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=2, eval_rows=3), trainer, told)

    assert [event["data"]["step"] for event in told.of("eval_complete")] == [6]


async def test_an_evaluation_uses_the_weights_of_its_step(
    plan: Any, trainer: Any, told: Told
) -> None:
    await run(plan(epochs=2, eval_rows=2, eval_interval=2), trainer, told)

    before = [
        trainer.names[:i].count("submit") for i, n in enumerate(trainer.names) if n == "evaluate"
    ]
    assert before == [2, 4, 6]


async def test_the_best_checkpoint_is_kept(plan: Any, trainer: Any, told: Told) -> None:
    trainer.eval_loss_of = lambda step: {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.0, 9: 2.0}[step]

    outcome = await run(plan(epochs=3, eval_rows=2, eval_interval=2), trainer, told)

    assert outcome.best == "tinker://run:train:0/weights/step-000004"
    saved = [event["artifacts"] for event in told.of("checkpoint_saved")]
    assert [artifacts.get("best_checkpoint", "")[-6:] for artifacts in saved] == [
        "000002",
        "000004",
    ]


async def test_the_last_weights_are_the_best_when_no_evaluation_was_better(
    plan: Any, trainer: Any, told: Told
) -> None:
    outcome = await run(plan(epochs=2, eval_rows=2, eval_interval=2), trainer, told)

    assert outcome.best is None


async def test_training_stops_early_when_evaluations_do_not_improve(
    plan: Any, trainer: Any, told: Told
) -> None:
    trainer.eval_loss_of = lambda step: 1.0 if step == 2 else 0.9
    early = {"early_stopping_patience": 2, "early_stopping_min_delta": 0.2}

    outcome = await run(plan(epochs=9, eval_rows=2, eval_interval=2, **early), trainer, told)

    assert outcome.stopped_early
    assert outcome.step == 6
    assert "2 evaluations without a loss below 0.8" in told.of("log")[0]["message"]
    # Too little to go on for is still the best there is.
    assert outcome.best == "tinker://run:train:0/weights/step-000004"
    assert trainer.names.count("submit") == 6


EARLY = {"eval_rows": 2, "eval_interval": 2, "early_stopping_patience": 2}


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 3},
        {"rows": 7, "epochs": 2},
        {"rows": 7, "steps": 6},
        {"rows": 7, "steps": 3, "shuffle": False},
        {"rows": 11, "steps": 5, "gradient_accumulation_steps": 2, "seed": 5},
        {"rows": 5, "steps": 4, "epochs": 9, "eval_rows": 3},
        {"rows": 5, "epochs": 3, "eval_rows": 3, "eval_interval": 2},
        {"rows": 6, "steps": 6, "eval_rows": 3, "eval_interval": 3},
        {"rows": 6, "epochs": 4, **EARLY},
    ],
)
async def test_the_schedule_knows_the_tokens_of_a_job_before_it_runs(
    plan: Any, trainer: Any, told: Told, given: dict[str, Any]
) -> None:
    job = plan(**given)
    tokens = [sum(each.input_tokens for each in row) for row in job.rows]
    evaluation = sum(each.input_tokens for row in job.eval_rows for each in row)

    await run(job, trainer, told)

    passes = [call for name, call in trainer.calls if name == "submit"]
    trained = [each for batches, _ in passes for batch in batches for each in batch]
    evaluated = [each for name, call in trainer.calls if name == "evaluate" for each in call]
    planned = job.schedule.tokens(tokens, evaluation)
    assert planned.training == sum(len(each.tokens) - 1 for each in trained)
    assert planned.evaluation == sum(len(each.tokens) - 1 for each in evaluated)


async def test_the_schedule_knows_the_fewest_tokens_of_a_job_that_may_stop_early(
    plan: Any, trainer: Any, told: Told
) -> None:
    trainer.eval_loss_of = lambda _: 1.0
    job = plan(rows=7, epochs=4, **EARLY)
    tokens = [sum(each.input_tokens for each in row) for row in job.rows]

    outcome = await run(job, trainer, told)

    passes = [call for name, call in trainer.calls if name == "submit"]
    trained = [each for batches, _ in passes for batch in batches for each in batch]
    fewest = job.schedule.fewest_tokens(tokens, 10)
    assert outcome.stopped_early
    assert fewest.training == sum(len(each.tokens) - 1 for each in trained)
    assert fewest.evaluation == 10 * len(told.of("eval_complete"))
    assert fewest.total < job.schedule.tokens(tokens, 10).total


async def test_a_job_that_stopped_early_does_not_continue_after_a_resume(
    plan: Any, trainer: Any, told: Told
) -> None:
    early = {"early_stopping_patience": 1, "eval_interval": 2, "eval_rows": 2}
    history = History.from_metrics(
        {"eval/steps": [2, 4], "eval/loss_history": [1.0, 2.0]}, 4, lambda _: 1
    )

    outcome = Outcome(4, 4)
    await train(plan(epochs=9, **early), trainer, told, Stop(), history, outcome)

    assert (outcome.stopped_early, outcome.step, trainer.calls) == (True, 4, [])


def test_a_resumed_history_keeps_the_best_evaluation() -> None:
    metrics = {"eval/steps": [2, 4, 6], "eval/loss_history": [3.0, 1.0, 0.5]}

    history = History.from_metrics(metrics, 5, lambda _: 1e-4)

    assert (history.best_step, history.best_loss, history.evals_without_progress) == (4, 1.0, 0)
    assert history.add_evaluation(6, 2.0, min_delta=0) is False


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        ({}, [8, 8, 8, 8]),
        ({"learning_rate_schedule": "linear"}, [8, 6, 4, 2]),
        ({"learning_rate_schedule": "cosine"}, [8, 6.828427, 4, 1.171573]),
        ({"warmup_steps": 2}, [4, 8, 8, 8]),
        ({"warmup_steps": 2, "learning_rate_schedule": "linear"}, [4, 8, 8, 4]),
        ({"warmup_steps": 8}, [1, 2, 3, 4]),
    ],
)
async def test_the_learning_rate_follows_its_schedule(
    plan: Any, trainer: Any, told: Told, given: dict[str, Any], rates: list[float]
) -> None:
    await run(plan(rows=8, learning_rate=8, **given), trainer, told)

    assert [rate for _, (_, rate) in trainer.calls] == pytest.approx(rates)
