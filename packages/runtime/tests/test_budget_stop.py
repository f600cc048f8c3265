"""The loop against a budget: whatever the limit, at most one step over it, and never stuck."""

import random
from decimal import Decimal
from typing import Any

from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.usage import KINDS, TokenMeter
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.jobs.config import SftConfig, read_config
from dreadnode_runtime.jobs.cost import Ledger
from dreadnode_runtime.jobs.outcome import Outcome
from dreadnode_runtime.sft.loop import Plan, train
from dreadnode_runtime.sft.metric_history import History

LIMITS = 50


class Silent:
    """Stands in for the reporter."""

    def report(self, event_type: str, **event: Any) -> None: ...

    def phase(self, phase: str, reason: str | None = None) -> None: ...

    def log(self, message: str, *, level: str = "info", **data: Any) -> None: ...


async def test_50_random_limits_are_exceeded_by_less_than_a_step_and_can_all_be_raised(
    trainer: Any, example: Any
) -> None:
    settings = {
        "dataset_ref": {"name": "talk", "version": "1"},
        "max_sequence_length": 2048,
        "batch_size": 3,
        "epochs": 4,
    }
    config = read_config(SftConfig, complete("sft", settings))
    plan = Plan(config, [[example(row + 1, length=6 + 9 * row)] for row in range(8)])
    submit, chance = trainer.submit, random.Random(0)
    meter = TokenMeter()
    costs: list[int] = []

    def counted(batches: Any, learning_rate: float) -> Any:
        costs.append(sum(len(each.tokens) - 1 for batch in batches for each in batch))
        meter.add({"train": costs[-1]})
        return submit(batches, learning_rate)

    trainer.submit = counted

    async def attempt(start: int, limit: float, earlier: int) -> tuple[Stop, Outcome]:
        stop, outcome = Stop(), Outcome(start, start)
        meter.__init__()  # type: ignore[misc]
        ledger = Ledger(
            rates=dict.fromkeys(KINDS, Decimal(1_000_000)),
            earlier_usd=Decimal(earlier),
            limit_usd=Decimal(str(limit)),
            meter=meter,
        )
        stop.is_budget_exhausted = lambda: ledger.is_exhausted
        history = History.from_metrics({}, start, lambda _: config.learning_rate)
        await train(plan, trainer, Silent(), stop, history, outcome)
        return stop, outcome

    await attempt(0, 1e9, 0)
    whole, steps = sum(costs), plan.steps
    for _ in range(LIMITS):
        limit, spent, step = chance.uniform(0, whole), 0, 0
        while step < steps:
            costs.clear()
            stop, outcome = await attempt(step, limit, spent)
            spent += sum(costs)
            assert outcome.step == step + len(costs)
            if stop.over_budget:
                assert limit <= spent < limit + costs[-1]
                assert outcome.checkpoints[-1].endswith(f"step-{outcome.step:06d}")
            step, limit = outcome.step, max(limit, spent) + chance.uniform(1, whole / 2)
        assert spent == whole
