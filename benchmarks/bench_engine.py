"""The engine beside plain transformers and PEFT, in one process and one run.

Training: tokens per second of forward, backward and optimizer step on the same batch. Sampling:
generated tokens per second beside `generate`, for one request and for sixteen. Every figure is a
ratio of two measurements that alternate, so that other load falls on both alike.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from dreadnode_engine.adapters import LoraShape
from dreadnode_engine.bases import Device, LoadedBase
from dreadnode_engine.decoding import Batch, Ticket
from dreadnode_engine.models import STAND_IN_ID, ServedModel, discover, inspect_model
from dreadnode_engine.runs import TrainingState
from dreadnode_engine.sampling import Plan, Stopper
from dreadnode_engine.training import Limits, check
from dreadnode_engine.wire import Datum, ForwardBackward
from peft import LoraConfig, get_peft_model
from tinker.proto import response_conv
from tinker.types import AdamParams

RANK = 16
TARGETS = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj", "lm_head"),
]


def tiny_model(folder: Path) -> ServedModel:
    """Make a random model that is small enough for the overhead around it to show."""
    from tokenizers import Tokenizer, models

    config = transformers.LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"t{i}": i for i in range(2048)}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), eos_token="t2"
    ).save_pretrained(folder)
    return inspect_model("tiny", folder)


def compare(
    ours: Callable[[], int], theirs: Callable[[], int], rounds: int
) -> tuple[float, float, float]:
    """Alternate the two; return tokens per second of each, and the median of their ratios."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for run, kept in zip((ours, theirs), rates, strict=True):
            started = time.perf_counter()
            tokens = run()
            if turn:  # the first round warms up
                kept.append(tokens / (time.perf_counter() - started))
    ratio = statistics.median(a / b for a, b in zip(*rates, strict=True))
    return statistics.median(rates[0]), statistics.median(rates[1]), ratio


def supervised(served: ServedModel, sequences: int, longest: int) -> list[Datum]:
    """Sequences of different lengths, of which the second half is trained on."""
    random = np.random.default_rng(0)
    data = []
    for length in random.integers(longest // 4, longest, sequences):
        tokens = random.integers(3, served.vocabulary, length + 1)
        weights = np.ones(length, dtype=np.float32)
        weights[: length // 2] = 0
        data.append(Datum(tokens[:-1], {"target_tokens": tokens[1:], "weights": weights}))
    return data


def plain_training(base: LoadedBase, data: list[Datum]) -> Callable[[], int]:
    """One step of the loop that people write by hand: pad, forward, loss, backward, step."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base.served.path, dtype=base.plain.causal_lm.dtype
    ).to(base.device)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    width = max(len(datum.tokens) for datum in data)
    ids = torch.zeros(len(data), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, datum in enumerate(data):
        size = len(datum.tokens)
        targets = torch.from_numpy(datum.inputs["target_tokens"]).clone()
        targets[torch.from_numpy(datum.inputs["weights"]) == 0] = -100
        ids[row, :size], mask[row, :size] = torch.from_numpy(datum.tokens), 1
        labels[row, :size] = targets
    ids, mask, labels = (tensor.to(base.device) for tensor in (ids, mask, labels))

    def step() -> int:
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum"
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return sum(len(datum.tokens) for datum in data)

    return step


def engine_training(base: LoadedBase, data: list[Datum], runs: int) -> Callable[[], int]:
    """The same step for each of RUNS runs, their micro-batches interleaved as the engine does."""
    shape = LoraShape(RANK, train_mlp=True, train_attn=True, train_unembed=True)
    wrapper, _ = base.wrapped(shape)
    states = [TrainingState(base, shape, wrapper.initial(i)) for i in range(runs)]
    limits = Limits(base.served.vocabulary, base.served.context)
    job = check(ForwardBackward("cross_entropy", {}, False, data), limits)

    def step() -> int:
        work = [state.forward_backward(job, limits.micro_batch_tokens) for state in states]
        while work:
            work = [one for one in work if next(one, StopIteration) is not StopIteration]
        for state in states:
            state.optim_step(AdamParams(learning_rate=1e-4))
        return runs * sum(len(datum.tokens) for datum in data)

    return step


def prompts(served: ServedModel, count: int) -> list[np.ndarray[Any, Any]]:
    """COUNT prompts of different lengths."""
    random = np.random.default_rng(1)
    return [random.integers(3, served.vocabulary, n) for n in random.integers(16, 96, count)]


def plain_sampling(base: LoadedBase, texts: list[np.ndarray[Any, Any]], new: int) -> int:
    """`generate` for one prompt after the other, as requests come."""
    model = base.plain.causal_lm
    for text in texts:
        ids = torch.from_numpy(text)[None].to(base.device)
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0)  # type: ignore[operator]
    return new * len(texts)


def engine_sampling(base: LoadedBase, texts: list[np.ndarray[Any, Any]], new: int) -> int:
    """The same prompts as so many requests that arrive together."""
    batch = Batch(base, base.mixed, rows=64, positions=65536)
    answers: list[bytes] = []
    for i, text in enumerate(texts):
        plan = Plan(text, 1, new, i, 1.0, 0, 1.0, (), 0, 0, 0, None, 0)
        batch.add(Ticket(plan, Stopper(plan, base), answers.append, print))
    while batch.busy:
        batch.advance()
    decoded = [response_conv.deserialize_sample_response(answer) for answer in answers]
    return sum(len(answer.sequences[0].tokens) for answer in decoded)


def measure(served: ServedModel, device: Device, rounds: int, *, small: bool) -> None:
    """Print every ratio for one model."""
    started = time.perf_counter()
    base = LoadedBase(served, device)
    loaded = time.perf_counter() - started
    print(f"{served.id}: loaded in {loaded:.1f} s")
    data = supervised(served, 8, 64 if small else 256)
    plain = plain_training(base, data)
    for runs in (1, 4):
        ours, theirs, ratio = compare(engine_training(base, data, runs), plain, rounds)
        rates = f"{ours:9.0f} tokens/s, plain {theirs:9.0f}: {ratio:5.2f}x"
        print(f"  train, {runs} run(s):   {rates}", flush=True)
    new = 16 if small else 64
    for count in (1, 16):
        texts = prompts(served, count)
        ours, theirs, ratio = compare(
            lambda texts=texts: engine_sampling(base, texts, new),
            lambda texts=texts: plain_sampling(base, texts, new),
            rounds,
        )
        rates = f"{ours:9.0f} tokens/s, plain {theirs:9.0f}: {ratio:5.2f}x"
        print(f"  sample, {count:2d} at once: {rates}", flush=True)


def main() -> None:
    """Measure on a tiny model and on the stand-in, on the GPU too if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="shorter, for a busy machine")
    parser.add_argument("--tiny-only", action="store_true", help="leave the stand-in out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    devices = [Device()]
    if torch.cuda.is_available():
        devices.append(Device("cuda", torch.bfloat16))
    cache = Path(tempfile.gettempdir()) / "dreadnode-bench"
    with tempfile.TemporaryDirectory() as folder:
        models = [tiny_model(Path(folder))]
        if not options.tiny_only:
            found = discover(cache, [], stand_in=True, cache=False)
            models += [found[STAND_IN_ID]] if STAND_IN_ID in found else []
        for device in devices:
            print(f"on {device.name}, {device.dtype}")
            for served in models:
                measure(served, device, options.rounds, small=options.small)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process, both sides together: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
