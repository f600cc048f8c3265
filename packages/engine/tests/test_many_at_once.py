"""Many clients at once: fair turns, one copy of the weights, and memory within its bounds."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from dreadnode_engine.base_models.discovery import inspect_model
from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.scheduling.scheduler import Scheduler
from tinker import types

KEY = "tml-master-key-of-the-tests"
ADAM = types.AdamParams(learning_rate=1e-2)


def batch(seed: int, sequences: int = 4) -> list[types.Datum]:
    random = np.random.default_rng(seed)
    rows = [random.integers(3, 90, 31) for _ in range(sequences)]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs={"target_tokens": row[1:]},
        )
        for row in rows
    ]


class Slices:
    """A lane with so many slices of work, each of which takes some time by its own account."""

    share = 1

    def __init__(self, name: str, slices: int, cost: float, order: list[str]) -> None:
        self.used = 0.0
        self.name, self.left, self.cost, self.order = name, slices, cost, order
        self.finished = threading.Event()

    def ready(self) -> bool:
        return self.left > 0

    def advance(self) -> None:
        self.left -= 1
        self.used += self.cost
        self.order.append(self.name)
        if not self.left:
            self.finished.set()


def worked(*queues: Slices) -> None:
    scheduler = Scheduler()
    for queue in queues:
        scheduler.add(queue)
    scheduler.start()
    for queue in queues:
        assert queue.finished.wait(20)
    scheduler.stop()


def test_a_long_run_does_not_delay_a_short_one() -> None:
    order: list[str] = []

    worked(Slices("long", 100, 1.0, order), Slices("short", 3, 1.0, order))

    assert order[:6].count("short") == 3


def test_queues_share_time_equally_not_turns() -> None:
    order: list[str] = []

    worked(Slices("heavy", 10, 4.0, order), Slices("light", 40, 1.0, order))

    assert 6 <= order[:20].count("light") / order[:20].count("heavy") * 2 <= 10


def test_a_queue_of_several_clients_gets_the_time_of_several() -> None:
    turns: list[str] = []

    class Timed(Slices):
        def advance(self) -> None:
            time.sleep(0.005)
            super().advance()

    several, one = Timed("several", 40, 0.0, turns), Timed("one", 40, 0.0, turns)
    several.share = 4
    worked(several, one)

    assert turns[:25].count("several") >= 2 * turns[:25].count("one")


def test_an_idle_queue_collects_no_credit() -> None:
    order: list[str] = []
    scheduler = Scheduler()
    late = Slices("late", 0, 1.0, order)

    class Busy(Slices):
        def advance(self) -> None:
            super().advance()
            if self.left == 40:
                late.left = 10
                scheduler.wake(late)

    busy = Busy("busy", 60, 1.0, order)
    scheduler.add(busy)
    scheduler.add(late)
    scheduler.start()

    assert busy.finished.wait(20)
    assert late.finished.wait(20)
    scheduler.stop()
    first = order.index("late")
    assert order[first : first + 10].count("busy") >= 4


def test_a_failing_queue_does_not_stop_the_others() -> None:
    order: list[str] = []

    class Broken(Slices):
        def advance(self) -> None:
            raise RuntimeError("broken")

    scheduler = Scheduler()
    scheduler.add(Broken("broken", 1, 1.0, order))
    good = Slices("good", 3, 1.0, order)
    scheduler.add(good)
    scheduler.start()

    assert good.finished.wait(20)
    scheduler.stop()


def test_concurrent_clients_get_the_same_results_as_alone(engine: Any) -> None:
    def train(seed: int, kind: str) -> list[float]:
        service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
        training = service.create_lora_training_client(f"tiny/{kind}", rank=4, seed=seed).result()
        losses = []
        for step in range(4):
            forward = training.forward_backward(batch(seed + step), "cross_entropy")
            training.optim_step(ADAM)
            losses.append(forward.result().metrics["loss:sum"])
            sampler = training.save_weights_and_get_sampling_client().result()
            sampler.sample(
                types.ModelInput.from_ints([5, 6]), 2, types.SamplingParams(max_tokens=20)
            ).result()
        return losses

    runs = [(1, "llama"), (2, "llama"), (3, "qwen3"), (4, "qwen3_moe")]
    alone = [train(*run) for run in runs]
    together: dict[int, list[float]] = {}
    threads = [
        threading.Thread(target=lambda i=i, run=run: together.update({i: train(*run)}))
        for i, run in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [together[i] for i in range(len(runs))] == alone


def test_a_long_queue_of_one_client_does_not_delay_another(engine: Any) -> None:
    greedy = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    modest = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    long = greedy.create_lora_training_client("tiny/llama", rank=4).result()
    short = modest.create_lora_training_client("tiny/llama", rank=4).result()
    futures = [long.forward_backward(batch(i, 64), "cross_entropy") for i in range(60)]

    short.forward_backward(batch(0), "cross_entropy").result()

    assert not futures[-1].future().done()
    for future in futures:
        future.result()


def room_for_runs(models_dir: Path, runs: float) -> str:
    """Return the GiB that the tiny model needs with so many RUNS of rank 128."""
    served = inspect_model("tiny/llama", models_dir / "llama")
    need = memory.base_bytes(served, Device()) + memory.training_bytes(served, Device(), 512)
    need += int(runs * memory.run_bytes(served, LoraShape(128, True, True, True)))
    return str(need / 2**30)


def test_runs_that_exceed_the_memory_together_take_turns(
    start_engine: Callable[..., Any], models_dir: Path
) -> None:
    losses = []
    for arguments in ((), ("--memory-gib", room_for_runs(models_dir, 1.5))):
        engine = start_engine(*arguments)
        service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
        runs = [
            service.create_lora_training_client("tiny/llama", rank=128, seed=i).result()
            for i in range(3)
        ]
        losses.append([])
        for step in range(3):
            for run in runs:
                forward = run.forward_backward(batch(step), "cross_entropy")
                run.optim_step(ADAM)
                losses[-1].append(forward.result().metrics["loss:sum"])

    assert losses[0] == losses[1]
    # The engine with little memory had to put runs on disk; neither was asked to.
    assert len(list(Path(engine.data_dir, "snapshots").glob("*/*"))) >= 2


def test_requests_that_can_never_fit_are_refused_at_submission(
    start_engine: Callable[..., Any], models_dir: Path
) -> None:
    engine = start_engine("--memory-gib", room_for_runs(models_dir, 0.5))
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)

    with pytest.raises(tinker.BadRequestError, match="rank 128 on tiny/llama needs about"):
        service.create_lora_training_client("tiny/llama", rank=128).result()

    rest = tinker.RestClient(base_url=engine.url, api_key=KEY)
    assert rest.list_training_runs().result().training_runs == []
    assert service.create_lora_training_client("tiny/llama", rank=1).result() is not None


def test_a_sequence_too_long_for_the_memory_fails_and_the_run_continues(
    start_engine: Callable[..., Any], models_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(models_dir / "llama", tmp_path / "long")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    served, shape = inspect_model("tiny/long", folder), LoraShape(4, True, True, True)
    need = memory.base_bytes(served, Device()) + memory.run_bytes(served, shape)
    need += memory.training_bytes(served, Device(), 3000)
    engine = start_engine("--model", f"tiny/long={folder}", "--memory-gib", str(need / 2**30))
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    run = service.create_lora_training_client("tiny/long", rank=4).result()
    long = types.Datum(
        model_input=types.ModelInput.from_ints([5] * 4000),
        loss_fn_inputs={"target_tokens": np.full(4000, 6)},
    )

    with pytest.raises(tinker.RequestFailedError, match="4000 tokens needs about"):
        run.forward_backward([long], "cross_entropy").result()

    assert run.forward_backward(batch(0), "cross_entropy").result().metrics["loss:sum"] > 0


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_the_memory_of_weights_is_measured_from_their_tensors(models_dir: Path, kind: str) -> None:
    served = inspect_model(kind, models_dir / kind)
    base = LoadedBase(served, Device())
    shape = LoraShape(8, train_mlp=True, train_attn=True, train_unembed=True)
    wrapper = PeftWrapper(base.plain.causal_lm, shape)

    own = sum(p.numel() for p in base.plain.causal_lm.parameters())

    assert memory.parameters(served.path) == own
    assert memory.adapter_parameters(served.path, shape) == sum(
        tensor.numel() for tensor in wrapper.initial(0).values()
    )


def test_an_adapter_wrapper_shares_every_base_weight(models_dir: Path) -> None:
    base = LoadedBase(inspect_model("llama", models_dir / "llama"), Device())
    shape = LoraShape(8, train_mlp=True, train_attn=True, train_unembed=True)
    own = {p.data_ptr() for p in base.plain.causal_lm.parameters()}

    wrapper, network = base.wrapper_for(shape)

    frozen = {p.data_ptr() for n, p in network.causal_lm.named_parameters() if ".lora_" not in n}
    assert frozen == own
    assert base.wrapper_for(shape)[0] is wrapper
