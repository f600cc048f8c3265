"""However a run begins and whatever its optimizer does, a `kill -9` does not change its bits."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tinker
from dreadnode_engine.compute.adapters import CONFIG_FILE, WEIGHTS_FILE
from dreadnode_engine.state.checkpoint_files import OPTIMIZER_FILE, CheckpointFiles, parse_path
from tinker import types

KEY = "tml-master-key-of-the-tests"
HALF = 3
"""Steps before the checkpoint that the runs begin from, and steps after it."""
ADAM = {"weight_decay": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-5}
SETTINGS: dict[str, dict[str, float]] = {
    "defaults": {},
    "clipped": {"grad_clip_norm": 0.3},
    "other Adam": ADAM,
    "all": {"grad_clip_norm": 0.05, **ADAM},
}
Begin = Callable[[tinker.ServiceClient, tinker.TrainingClient, str], tinker.TrainingClient]
Bits = dict[tuple[str, str], list[float | str]]
"""For each start and each setting: losses, gradient norms and digests of the last checkpoint."""


BEGINS: dict[str, Begin] = {
    "unbroken": lambda service, training, path: training,
    "with optimizer": lambda service, training, path: (
        service.create_training_client_from_state_with_optimizer(path).result()
    ),
    "from weights": lambda service, training, path: service.create_training_client_from_state(
        path
    ).result(),
}


def batch(number: int) -> list[types.Datum]:
    random = np.random.default_rng(number)
    data = []
    for _ in range(2):
        tokens = random.integers(3, 90, random.integers(4, 30))
        data.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
                loss_fn_inputs={"target_tokens": tokens[1:]},
            )
        )
    return data


def submit(
    training: tinker.TrainingClient, steps: range, settings: dict[str, float]
) -> Callable[[], list[float | str]]:
    """Submit STEPS with accumulated gradients and a schedule; return how to await their bits."""
    futures: list[Any] = []
    for step in steps:
        rate = 0.01 * min(1, (step + 1) / 2) * (1 + math.cos(math.pi * step / (2 * HALF)))
        futures += [
            training.forward_backward(batch(2 * step + micro), "cross_entropy") for micro in (0, 1)
        ]
        futures.append(training.optim_step(types.AdamParams(learning_rate=rate, **settings)))

    def results() -> list[float | str]:
        metrics = [future.result().metrics for future in futures]
        return [each.get("loss:sum", each.get("grad_norm")) for each in metrics]

    return results


def train(engine: Any, kill: Callable[[], None] = lambda: None) -> Bits:
    """Return the bits of every start with every setting; KILL is called while they are computed."""
    service = tinker.ServiceClient(base_url=engine.url, api_key=KEY)
    files = CheckpointFiles(engine.data_dir)
    first = {
        name: service.create_lora_training_client("tiny/llama", rank=4, seed=9).result()
        for name in SETTINGS
    }
    for results in [submit(run, range(HALF), SETTINGS[name]) for name, run in first.items()]:
        results()
    paths = {name: run.save_state("half").result().path for name, run in first.items()}
    # The run that goes on comes last: the others begin from its state of this moment.
    runs = {
        (start, name): BEGINS[start](service, first[name], paths[name])
        for start in reversed(BEGINS)
        for name in SETTINGS
    }
    later = range(HALF, 2 * HALF)
    awaited = {key: submit(run, later, SETTINGS[key[1]]) for key, run in runs.items()}
    kill()
    bits = {key: results() for key, results in awaited.items()}
    for key, run in runs.items():
        folder = files.checkpoint(parse_path(run.save_state("end").result().path))
        for name in (CONFIG_FILE, WEIGHTS_FILE, OPTIMIZER_FILE):
            bits[key].append(hashlib.sha256((folder / name).read_bytes()).hexdigest())
    return bits


@pytest.fixture(scope="module")
def undisturbed(engine: Any) -> Bits:
    return train(engine)


def test_a_run_from_a_checkpoint_has_the_bits_of_the_run_that_saved_it(undisturbed: Bits) -> None:
    assert {name: undisturbed["with optimizer", name] for name in SETTINGS} == {
        name: undisturbed["unbroken", name] for name in SETTINGS
    }


@pytest.mark.timeout(290)
def test_a_kill_changes_no_bit_of_any_start_with_any_setting(
    start_engine: Callable[..., Any], undisturbed: Bits
) -> None:
    engine = start_engine("--snapshot-seconds", "0.2")

    def kill() -> None:
        engine.kill()
        engine.start()

    assert train(engine, kill) == undisturbed


def test_every_setting_and_a_start_without_the_optimizer_change_the_bits(undisturbed: Bits) -> None:
    distinct = {str(undisturbed["unbroken", name]) for name in SETTINGS}
    from_weights = {str(undisturbed["from weights", name]) for name in SETTINGS}

    assert len(distinct) == len(from_weights) == len(SETTINGS)
    assert not distinct & from_weights
