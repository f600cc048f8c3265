"""The reinforcement-learning loop, against a policy that remembers what it was asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.policy import Floats, Loss, Sampled, SamplingParams, TrainingSequence
from dreadnode_runtime.backend.trainer import Saved
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import read_config
from dreadnode_runtime.jobs.outcome import Outcome
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score
from dreadnode_runtime.rl.bounds import token_bounds
from dreadnode_runtime.rl.config import RlConfig
from dreadnode_runtime.rl.loop import RlPlan, train
from dreadnode_runtime.rl.metric_history import RlHistory, training_metrics
from dreadnode_runtime.rl.rollouts import Group, Rollout, Rollouts, advantages, sampling_params

END = 258
"""The tiny tokenizer's <|im_end|>."""


class Drawing:
    """Draws answers of one to three letters, the number of which the seed and the sample decide."""

    def __init__(self, policy: "FakePolicy", version: int) -> None:
        self.policy = policy
        self.version = version

    def sample(
        self, prompt: Sequence[int], count: int, sampling: SamplingParams, seed: int
    ) -> Awaitable[list[Sampled]]:
        self.policy.sampled.append((self.version, list(prompt), count, sampling, seed))

        async def answer() -> list[Sampled]:
            return [self._one((seed + number) % 3 + 1) for number in range(count)]

        return answer()

    def _one(self, letters: int) -> Sampled:
        if self.policy.all_alike:
            letters = 2
        tokens = np.array([66] * letters + [END], np.int32)
        logprobs = np.full(len(tokens), self.policy.logprob, np.float32)
        return Sampled(tokens, logprobs, truncated=letters == 3 or self.policy.all_cut_off)


class FakePolicy:
    """Counts updates; its log-probabilities are those of the sampler, until told otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sampled: list[Any] = []
        self.learnt: list[list[TrainingSequence]] = []
        self.rates: list[float] = []
        self.updates = 0
        self.logprob = -1.0
        self.all_alike = False
        self.all_cut_off = False
        self.nan_at: int | None = None
        self.on_update: Callable[[int], None] = lambda update: None

    def submit_update(
        self, batch: Sequence[TrainingSequence], loss: Loss, learning_rate: float
    ) -> Awaitable[list[Floats]]:
        self.calls.append(f"learn {loss.name}")
        self.learnt.append(list(batch))
        self.rates.append(learning_rate)
        self.updates += 1
        self.on_update(self.updates)
        value = np.nan if self.updates == self.nan_at else -1.0

        async def answer() -> list[Floats]:
            return [np.full(len(s.tokens) - 1, value, np.float32) for s in batch]

        return answer()

    def sampler(self) -> Awaitable[Drawing]:
        self.calls.append("sampler")
        drawing = Drawing(self, self.updates)

        async def answer() -> Drawing:
            return drawing

        return answer()

    def save(self, name: str) -> Awaitable[Saved]:
        self.calls.append(f"save {name}")

        async def answer() -> Saved:
            return Saved(f"tinker://run/weights/{name}", 4096)

        return answer()


class Shorter(Recipe):
    """Pays short answers."""

    name = "shorter"

    async def score(self, completion: Completion) -> Score:
        return Score(1 / completion.tokens, extraction_failed=completion.truncated)


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def report(self, event_type: str, **event: Any) -> None:
        self.events.append((event_type, event))

    def phase(self, *_: Any) -> None: ...

    def log(self, message: str, **_: Any) -> None:
        self.events.append(("log", {"message": message}))

    def of(self, event_type: str) -> list[dict[str, Any]]:
        return [event for kind, event in self.events if kind == event_type]


@pytest.fixture(scope="module")
def rendering(tiny_model: Path) -> Rendering:
    return load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


def config(**given: Any) -> RlConfig:
    ref = {"name": "ask", "version": "1"}
    if given.get("eval_interval") or given.pop("evaluates", False):
        given["eval_dataset_ref"] = ref
    settings = {
        "algorithm": "importance_sampling",
        "prompt_dataset_ref": ref,
        "reward_recipe": {"name": "shorter"},
        "num_rollouts": 2,
        "batch_size": 2,
        "group_size": 3,
        "steps": 4,
    }
    settings = {"max_sequence_length": 32_768, **settings, **given}
    return read_config(RlConfig, complete("rl", settings))


@pytest.fixture
def run(rendering: Rendering, policy: FakePolicy, told: Told) -> Any:
    """Run the loop, and return its history and how far it came."""

    async def run(
        settings: RlConfig, outcome: Outcome | None = None, stop: Stop | None = None
    ) -> tuple[RlHistory, Outcome]:
        outcome = outcome or Outcome()
        said = Conversation([{"role": "user", "content": "?"}])
        prompts = [Prompt(said, row, tokens=[10, row]) for row in range(1, 6)]
        evaluated = prompts[:3] if settings.eval_dataset_ref else []
        plan = RlPlan(settings, prompts, settings.total_steps(5), evaluated)
        history = RlHistory.from_metrics({}, outcome.step)
        rollouts = Rollouts(
            rendering, Shorter(), sampling_params(rendering, settings), max_length=64
        )
        await train(plan, policy, rollouts, told, stop or Stop(), history, outcome)
        return history, outcome

    return run


async def test_a_step_samples_groups_trains_once_and_updates_the_sampler(
    run: Any, policy: FakePolicy
) -> None:
    _, outcome = await run(config())

    assert outcome.step == 4
    assert policy.calls == ["sampler", "learn importance_sampling"] * 4
    assert [version for version, *_ in policy.sampled] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {count for _, _, count, *_ in policy.sampled} == {3}


async def test_completions_are_sampled_in_the_models_format_up_to_its_end_token(
    run: Any, policy: FakePolicy
) -> None:
    await run(config(max_new_tokens=9, temperature=0.5))

    assert policy.sampled[0][3] == SamplingParams(9, 0.5, [END])


async def test_stop_strings_are_added_to_the_models_own_end_token(
    run: Any, policy: FakePolicy
) -> None:
    await run(config(stop=["###"]))

    assert policy.sampled[0][3].stop == ["<|im_end|>", "###"]


async def test_the_rollouts_of_a_step_are_reported_before_it_trains(run: Any, told: Told) -> None:
    await run(config(steps=2))

    kinds = [kind for kind, _ in told.events if kind != "phase"]
    assert kinds == ["rollouts", "step_complete", "rollouts", "step_complete"]
    (first, _) = told.of("rollouts")
    groups = first["rollouts"]["groups"]
    assert [len(group["completions"]) for group in groups] == [3, 3]
    texts = [each["turns"][0]["content"]["text"] for each in groups[0]["completions"]]
    assert all(text.endswith("<|im_end|>") for text in texts)


async def test_several_updates_of_one_step_train_on_their_own_groups(
    run: Any, policy: FakePolicy
) -> None:
    await run(config(steps=1, num_rollouts=4, batch_size=3))

    assert policy.calls == ["sampler", "learn importance_sampling", "learn importance_sampling"]
    assert [len({s.row for s in batch}) for batch in policy.learnt] == [3, 1]


async def test_every_sampled_token_carries_its_reward_minus_the_groups_mean(
    run: Any, policy: FakePolicy
) -> None:
    await run(config(steps=1, num_rollouts=1, batch_size=1))

    sequences = {len(s.tokens) - 2: s for s in policy.learnt[0]}
    rewards = {tokens: 1 / tokens for tokens in (2, 3, 4)}
    mean = sum(rewards.values()) / 3
    for tokens, sequence in sequences.items():
        expected = [0, 0] + [rewards[tokens] - mean] * tokens
        np.testing.assert_allclose(sequence.advantages, expected, rtol=1e-6)
        assert sequence.logprobs.tolist() == [0, 0] + [-1] * tokens
        assert sequence.sampled_mask.tolist() == [False, False] + [True] * tokens
        assert sequence.tokens[-1] == END


def test_scaled_advantages_follow_grpo() -> None:
    np.testing.assert_allclose(advantages([0, 1], scale=True), [-1, 1], atol=1e-5)
    assert advantages([0, 1], scale=False) == [-0.5, 0.5]
    assert advantages([2, 2], scale=True) == [0, 0]


async def test_groups_without_a_reward_difference_are_not_trained_and_counted(
    run: Any, policy: FakePolicy, told: Told
) -> None:
    policy.all_alike = True

    history, outcome = await run(config())

    assert outcome.step == 4
    assert "learn importance_sampling" not in policy.calls
    assert [f["train/degenerate_groups"] for f in history.steps] == [2, 2, 2, 2]
    assert [f["train/entropy"] for f in history.steps] == [1.0] * 4
    (warning,) = told.of("log")
    assert "Step 1 has nothing to learn from: in each of its 2 groups" in warning["message"]


def test_a_group_of_empty_completions_is_not_trained_at_any_reward() -> None:
    empty = Rollout([], Score(0.0), 1, 0, truncated=False, prompt_tokens=2)
    paid = replace(empty, score=Score(1.0))
    group = Group(Prompt(Conversation([]), 1), [empty, paid])

    assert group.degenerate
    assert group.training_sequences(scale=False) == []


async def test_each_step_reports_the_documented_metrics(run: Any, told: Told) -> None:
    await run(config(algorithm="ppo", execution_mode="one_step_off_async", max_steps_off_policy=1))

    steps = told.of("step_complete")
    metrics = steps[1]["metrics"]
    assert {
        *("steps", "train/reward", "train/reward_max", "train/reward_min", "train/reward_std"),
        *("train/model_version", "train/weight_sync_count", "train/staleness"),
        *("train/generation_step", "train/pending_generation_groups"),
        *("train/kl_sampler_trainer", "train/entropy", "train/clip_fraction"),
        *("train/completion_tokens_mean", "train/completion_tokens_max"),
        *("train/truncated_fraction", "train/degenerate_groups", "train/staleness_max"),
        *("train/rollouts_per_second", "train/sampled_tokens_per_second", "train/step_seconds"),
        *("train/prompt_tokens", "train/sampled_tokens", "train/trained_tokens"),
    } <= set(metrics)
    assert all(len(values) == 1 for values in metrics.values())
    assert [step["metrics"]["train/staleness"] for step in steps] == [[0], [1], [1], [1]]
    assert [step["metrics"]["train/model_version"] for step in steps] == [[0], [1], [2], [3]]
    assert metrics["train/entropy"] == [1.0]
    assert metrics["train/kl_sampler_trainer"] == [0.0]
    assert (steps[-1]["data"]["step"], steps[-1]["data"]["steps"]) == (4, 4)


def test_kl_and_clipping_match_their_formulas() -> None:
    sequence = TrainingSequence(
        tokens=np.zeros(4, np.int32),
        logprobs=np.array([0, -1, -2, -1], np.float32),
        advantages=np.array([0, 1, -1, -1], np.float32),
        sampled_mask=np.array([False, True, True, True]),
        row=1,
    )
    found = np.array([-0.5, -3, -0.5], np.float32)

    metrics = training_metrics([(sequence, found)], clip=(0.8, 1.2))

    gap = np.array([0.5, -1, 0.5])
    assert metrics["train/kl_sampler_trainer"] == pytest.approx(np.mean(np.exp(gap) - 1 - gap))
    # Clipped: the first, above 1.2 with a gain; the second, below 0.8 with a loss; not the third.
    assert metrics["train/clip_fraction"] == pytest.approx(2 / 3)
    assert metrics["train/trained_tokens"] == 3


async def test_the_end_reports_whole_metric_histories_and_totals(run: Any) -> None:
    history, _ = await run(config(execution_mode="fully_async", max_steps_off_policy=2))

    metrics = history.final_metrics()
    assert metrics["steps"] == [1, 2, 3, 4]
    assert len(metrics["train/reward"]) == 4
    assert len(metrics["train/reward_max_per_step"]) == 4
    assert metrics["train/reward_max"] == 0.5
    assert metrics["train/reward_min"] == 0.25
    assert metrics["train/num_rollouts"] == 24
    assert metrics["async/max_staleness_observed"] == 2
    assert metrics["async/max_pending_generation_groups"] == 6
    assert metrics["async/generation_step"] == 8
    assert metrics["async/training_step"] == metrics["async/model_version"] == 4
    assert metrics["async/weight_sync_count"] == 4


async def test_the_sampler_keeps_its_weights_for_the_configured_steps(
    run: Any, policy: FakePolicy
) -> None:
    history, _ = await run(config(weight_sync_interval=2))

    assert policy.calls.count("sampler") == 2
    assert [f["train/staleness_max"] for f in history.steps] == [0, 1, 0, 1]


async def test_a_checkpoint_is_reported_when_the_next_step_verifies_it(
    run: Any, told: Told
) -> None:
    history, outcome = await run(config(checkpoint_interval=2))

    kinds = [kind for kind, _ in told.events if kind not in ("phase", "log", "rollouts")]
    assert kinds == [
        *("step_complete", "checkpoint_writing", "step_complete"),
        *("checkpoint_saved", "step_complete", "step_complete"),
    ]
    [event] = [event for kind, event in told.events if kind == "checkpoint_saved"]
    assert event["data"]["metrics"] == {"train/reward": history.steps[1]["train/reward"]}
    assert outcome.checkpoints == ["tinker://run/weights/step-000002"]


async def test_weights_that_are_not_finite_end_the_job_and_keep_the_checkpoint_before(
    run: Any, policy: FakePolicy
) -> None:
    policy.nan_at = 4

    with pytest.raises(JobFailed) as failed:
        await run(config(checkpoint_interval=2))

    assert "The loss of step 4 is not finite, first on row" in str(failed.value)
    assert "the checkpoint of step 2 is kept" in str(failed.value)
    assert failed.value.code == "diverged"


async def test_a_sampler_with_probabilities_that_are_not_finite_ends_the_job(
    run: Any, policy: FakePolicy
) -> None:
    policy.logprob = float("nan")

    with pytest.raises(JobFailed, match="log-probabilities are not finite, first on row"):
        await run(config())


@pytest.mark.parametrize("how", ["cancelled", "terminated"])
async def test_a_stop_ends_the_loop_after_its_step_with_a_checkpoint(
    run: Any, policy: FakePolicy, how: str
) -> None:
    stop = Stop()
    policy.on_update = lambda update: setattr(stop, how, update == 2 or getattr(stop, how))

    _, outcome = await run(config(), stop=stop)

    assert outcome.step == 2
    assert outcome.checkpoints == ["tinker://run/weights/step-000002"]


async def test_a_resumed_job_continues_with_the_next_prompts(
    run: Any, policy: FakePolicy, told: Told
) -> None:
    await run(config())
    whole = [(prompt, seed) for _, prompt, _, _, seed in policy.sampled]
    policy.sampled.clear()

    history, outcome = await run(config(), outcome=Outcome(2, 2, ["tinker://run/weights/step-2"]))

    assert [(prompt, seed) for _, prompt, _, _, seed in policy.sampled] == whole[4:]
    assert told.of("step_complete")[-2]["metrics"]["steps"] == [3]
    assert outcome.step == 4
    assert len(history.steps) == 4


def test_metrics_reported_before_a_resume_are_reported_again_at_the_end() -> None:
    told = {
        "steps": [1, 2, 3, 2],
        "train/reward": [0.1, 0.2, 0.3, 0.25],
        "train/reward_max_per_step": [1, 2, 3, 2.5],
        "train/reward_max": 3,
        "train/weight_sync_count": [1, 2, 3, 4],
        "eval/steps": [0, 2, 4],
        "eval/reward_history": [0.0, 0.5, 0.9],
    }

    history = RlHistory.from_metrics(told, 2)

    assert [f["train/reward"] for f in history.steps] == [0.1, 0.25]
    assert [f["train/reward_max"] for f in history.steps] == [1, 2.5]
    assert history.evals == [(0, 0.0), (2, 0.5)]
    assert (history.best_step, history.best_reward) == (2, 0.5)
    assert history.weight_syncs == 4


async def test_a_retry_of_a_cancelled_job_continues_its_counts(run: Any) -> None:
    history, _ = await run(config(steps=2))
    before = history.final_metrics()

    again = RlHistory.from_metrics(before, 2)

    assert before["train/num_rollouts"] > 0
    assert again.final_metrics()["train/num_rollouts"] == before["train/num_rollouts"]
    assert again.final_metrics()["tokens/sampled"] == before["tokens/sampled"]


async def test_evaluations_run_before_the_first_step_at_their_interval_and_at_the_end(
    run: Any, policy: FakePolicy, told: Told
) -> None:
    history, outcome = await run(config(eval_interval=2, checkpoint_interval=2))

    evals = [event["metrics"] for event in told.of("eval_complete")]
    assert [each["eval/steps"] for each in evals] == [[0], [2], [4]]
    assert set(evals[0]) >= {"eval/reward", "eval/reward_max", "eval/extraction_failed_rate"}
    assert evals[0]["eval/num_examples"] == 3
    assert history.final_metrics()["eval/steps"] == [0, 2, 4]
    assert outcome.checkpoints == ["tinker://run/weights/step-000002"]
    assert policy.calls.count("save step-000002") == 1


async def test_without_an_interval_evaluations_run_at_start_and_end(run: Any, told: Told) -> None:
    await run(config(evaluates=True))

    assert [e["metrics"]["eval/steps"] for e in told.of("eval_complete")] == [[0], [4]]


async def test_sampling_continues_during_training(
    run: Any, policy: FakePolicy, eventually: Any
) -> None:
    """A step of an asynchronous job ends although the next one's rollouts hang."""
    gate = asyncio.Event()
    draw = Drawing.sample

    def slow(self: Drawing, *args: Any) -> Awaitable[list[Sampled]]:
        late = len(policy.sampled) >= 2

        async def answer() -> list[Sampled]:
            if late:
                await gate.wait()
            return await drawing

        drawing = draw(self, *args)
        return answer()

    settings = config(execution_mode="fully_async", max_steps_off_policy=1, steps=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Drawing, "sample", slow)
        running = asyncio.create_task(run(settings))
        await eventually(lambda: policy.updates == 1)
        gate.set()
        _, outcome = await running

    assert outcome.step == 2


async def test_a_step_with_only_truncated_completions_names_the_setting_to_raise(
    run: Any, policy: FakePolicy, told: Told
) -> None:
    policy.all_cut_off = True

    await run(config(max_new_tokens=9))

    (warning,) = told.of("log")
    assert "All 6 completions of step 1 were cut off at `max_new_tokens` 9" in warning["message"]
    assert "raise `max_new_tokens`" in warning["message"]


def test_rewards_that_differ_by_a_rounding_error_count_as_equal() -> None:
    rollout = Rollout([], Score(0.3), 1, 5, truncated=False, prompt_tokens=2)
    prompt = Prompt(Conversation([]), 1)

    assert Group(prompt, [rollout, replace(rollout, score=Score(0.1 + 0.2))]).degenerate
    assert not Group(prompt, [rollout, replace(rollout, score=Score(0.3001))]).degenerate
    assert Group(prompt, [replace(rollout, score=Score(0.0))] * 2).degenerate


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"steps": 3, "epochs": None, "eval_interval": 2},
        {"steps": None, "epochs": 2, "evaluates": True, "num_rollouts": 3},
        {"steps": 7, "execution_mode": "fully_async", "max_steps_off_policy": 2},
    ],
)
async def test_the_bounds_hold_for_the_tokens_of_a_job(
    run: Any, policy: FakePolicy, given: dict[str, Any]
) -> None:
    said = Conversation([{"role": "user", "content": "?"}])
    prompts = [Prompt(said, row, tokens=[10, row]) for row in range(1, 6)]
    settings = config(max_new_tokens=9, **given)
    lengths = [len(each.tokens) for each in prompts]
    least, most = token_bounds(settings, lengths, lengths[:3] if settings.eval_dataset_ref else [])

    await run(settings)

    asked = sum(len(prompt) for _, prompt, *_ in policy.sampled)
    completions = sum(count for _, _, count, *_ in policy.sampled)
    trained = [each for batch in policy.learnt for each in batch]
    assert least["prefill"] == 0
    assert asked <= most["prefill"]
    assert asked <= least["cached_prefill"]
    assert completions == least["sample"]
    assert most["sample"] == 9 * completions
    assert least["train"] <= sum(len(each.tokens) - 1 for each in trained) <= most["train"]
