"""The engine compared with plain transformers and PEFT, in one run on one machine.

Training: tokens per second of forward, backward and optimizer step on the same batch, for one run
and for several. Sampling: tokens per second compared with `generate`, for one request, for
sixteen, and for sixteen over four adapters; and with a bare loop for one. Every figure is a ratio
of two measurements that alternate, so that other load falls on both alike; each comparison ends
when its seconds are over. Time to ready and memory: the first step through a new engine, compared
with a new process that takes the same step by hand.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tinker
import torch
import transformers
from bare_decoding import BareDecoding
from dreadnode_engine.base_models.discovery import STAND_IN_ID, ServedModel, discover, inspect_model
from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.decoding import SamplingBatch
from dreadnode_engine.compute.loaded_model import Device, LoadedBase
from dreadnode_engine.compute.sampling import Plan, StopCondition
from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.compute.training_state import TrainingState
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward
from peft import LoraConfig, PeftModel, get_peft_model
from tinker.proto import response_conv
from tinker.types import AdamParams, ModelInput
from tinker.types import Datum as SentDatum

RANK = 16
ENGINE_KEY = "tml-key-of-the-benchmark"
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
    ours: Callable[[], int], theirs: Callable[[], int], seconds: float
) -> tuple[float, float, float]:
    """Alternate the two for SECONDS; return tokens per second of each, and the median ratio."""
    rates: tuple[list[float], list[float]] = ([], [])
    finish = time.perf_counter() + seconds
    warm = False
    while not rates[1] or time.perf_counter() < finish:
        for run, kept in zip((ours, theirs), rates, strict=True):
            started = time.perf_counter()
            tokens = run()
            _finish_queued()
            if warm:
                kept.append(tokens / (time.perf_counter() - started))
        warm = True
    ratio = statistics.median(a / b for a, b in zip(*rates, strict=True))
    return statistics.median(rates[0]), statistics.median(rates[1]), ratio


def _finish_queued() -> None:
    """Wait for what a GPU has still to do, which Python does not wait for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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


def weights_dtype(base: LoadedBase) -> torch.dtype:
    """The data type of the projections, which is that of the whole model in a plain loop."""
    dtype: torch.dtype = base.plain.causal_lm.model.layers[0].self_attn.q_proj.weight.dtype
    return dtype


def plain_training(base: LoadedBase, data: list[Datum]) -> Callable[[], int]:
    """One step of the loop that people write by hand: pad, forward, loss, backward, step."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base.served.path, dtype=weights_dtype(base)
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
    wrapper, _ = base.wrapper_for(shape)
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


def generate(model: Any, text: np.ndarray[Any, Any], new: int) -> int:
    """Sample NEW tokens after TEXT as people do by hand."""
    ids = torch.from_numpy(text)[None].to(model.device)
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            top_k=0,
        )
    return new


def plain_sampling(base: LoadedBase, texts: list[np.ndarray[Any, Any]], new: int) -> int:
    """`generate` for one prompt after the other, as requests come."""
    return sum(generate(base.plain.causal_lm, text, new) for text in texts)


def plain_adapters(base: LoadedBase, folders: list[Path]) -> Callable[[Any, int], int]:
    """PEFT with every adapter loaded, switched to the one that each request asks for."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base.served.path, dtype=weights_dtype(base)
    ).to(base.device)
    whole = PeftModel.from_pretrained(model, folders[0], adapter_name="0").eval()
    for i, folder in enumerate(folders[1:], start=1):
        whole.load_adapter(folder, adapter_name=str(i))

    def sample(texts: list[np.ndarray[Any, Any]], new: int) -> int:
        total = 0
        for i, text in enumerate(texts):
            whole.set_adapter(str(i % len(folders)))
            total += generate(whole, text, new)
        return total

    return sample


def engine_sampling(
    base: LoadedBase,
    texts: list[np.ndarray[Any, Any]],
    new: int,
    folders: Sequence[Path | None] = (None,),
) -> int:
    """The same prompts as so many requests that arrive together, over FOLDERS in turn."""
    batch = SamplingBatch(base, base.sampling_network, rows=64, tokens=65536)
    answers: list[bytes] = []
    for i, text in enumerate(texts):
        plan = Plan(text, 1, new, i, 1.0, 0, 1.0, (), 0, 0, 0, None, 0)
        folder = folders[i % len(folders)]
        stop_condition = StopCondition(plan, base)
        batch.add(
            BatchRequest(plan, stop_condition, answers.append, sys.exit, lambda at=folder: at)
        )
    while batch.busy:
        batch.advance()
    decoded = [response_conv.deserialize_sample_response(answer) for answer in answers]
    return sum(len(answer.sequences[0].tokens) for answer in decoded)


def adapter_by_adapter(
    base: LoadedBase, texts: list[np.ndarray[Any, Any]], new: int, folders: list[Path]
) -> int:
    """The same, but the requests of each adapter in a batch of their own."""
    count = len(folders)
    return sum(
        engine_sampling(base, texts[i::count], new, [folder]) for i, folder in enumerate(folders)
    )


def save_adapters(base: LoadedBase, folder: Path, count: int) -> list[Path]:
    """Save COUNT adapters that do something."""
    wrapper, _ = base.wrapper_for(
        LoraShape(RANK, train_mlp=True, train_attn=True, train_unembed=True)
    )
    folders = []
    for i in range(count):
        tensors = {name: torch.randn(size) * 0.01 for name, size in wrapper.shapes.items()}
        folders.append(folder / f"{base.served.id.replace('/', '-')}-{id(base)}-{i}")
        folders[-1].mkdir()
        wrapper.save(tensors, folders[-1], base.served.id)
    return folders


def show(what: str, figures: tuple[float, float, float]) -> None:
    """Print one comparison."""
    ours, theirs, ratio = figures
    print(f"  {what:<34} {ours:9.0f} tokens/s, against {theirs:9.0f}: {ratio:5.2f}x", flush=True)


def measure(served: ServedModel, device: Device, seconds: float, folder: Path) -> None:
    """Print every ratio for one model; each comparison takes about SECONDS."""
    base = LoadedBase(served, device)
    size = memory.parameters(served.path) / 1e6
    print(f"{served.id}, {size:.0f} million weights, on {device.name} in {device.dtype}")
    # On a CPU a batch of the stand-in must not take longer than its seconds.
    large = size > 50 and device.name == "cpu"
    data = supervised(served, 4 if large else 8, 128 if large else 256)
    plain = plain_training(base, data)
    for runs in (1, 2 if large else 4):
        show(f"train, {runs} at once", compare(engine_training(base, data, runs), plain, seconds))
    new, texts = 16 if large else 32, prompts(served, 16)
    for count, beside in ((1, 1), (16, 2 if large else 4)):
        figures = compare(
            lambda count=count: engine_sampling(base, texts[:count], new),
            lambda beside=beside: plain_sampling(base, texts[:beside], new),
            seconds,
        )
        show(f"sample, {count} at once", figures)
    bare = BareDecoding(base.plain.causal_lm, len(texts[0]) + new)
    base.prefixes.clear()
    figures = compare(
        lambda: engine_sampling(base, texts[:1], new),
        lambda: bare.sample(texts[0], new),
        seconds,
    )
    show("sample, 1, against a bare loop", figures)
    folders = save_adapters(base, folder, 4)
    by_peft = plain_adapters(base, folders)
    sampling_network = lambda: engine_sampling(base, texts, new, folders)  # noqa: E731
    figures = compare(sampling_network, lambda: by_peft(texts[: 2 if large else 4], new), seconds)
    show("sample, 16 at once, 4 adapters", figures)
    figures = compare(
        sampling_network, lambda: adapter_by_adapter(base, texts, new, folders), seconds
    )
    show("the same, compared with one by one", figures)
    beside_a_busy_client(base, new)
    second_turn(base, 1000, seconds)


def beside_a_busy_client(base: LoadedBase, new: int) -> None:
    """Print what a single request takes alone, and beside a client with 64 sequences."""

    def request(client: str, samples: int, tokens: int, seed: int) -> BatchRequest:
        text = prompts(base.served, 1)[0]
        plan = Plan(text, samples, tokens, seed, 1.0, 0, 1.0, (), 0, 0, 0, None, 0)
        stop = StopCondition(plan, base)
        finish = lambda _: finished.append(client)  # noqa: E731
        return BatchRequest(plan, stop, finish, sys.exit, client=client, owner=client)

    finished: list[str] = []
    times: list[float] = []
    step = 0.0
    for busy in (False, True):
        batch = SamplingBatch(base, base.sampling_network, rows=64, tokens=65536)
        for seed in range(8 if busy else 0):
            batch.add(request("busy", 8, 4 * new, seed))
        for _ in range(4 if busy else 0):
            started = time.perf_counter()
            batch.advance()
            step = time.perf_counter() - started
        finished.clear()
        base.prefixes.clear()
        started = time.perf_counter()
        batch.add(request("single", 1, new, 99))
        while "single" not in finished:
            batch.advance()
        times.append(time.perf_counter() - started)
    aim = 2 * times[0] + step
    print(
        f"  one request alone {times[0]:.2f} s, beside 64 sequences {times[1]:.2f} s; "
        f"twice alone and one step is {aim:.2f} s",
        flush=True,
    )


def second_turn(base: LoadedBase, history: int, seconds: float) -> None:
    """Print the time to the first token of a chat's second turn, cached and computed."""
    random = np.random.default_rng(3)
    text = random.integers(3, base.served.vocabulary, history + 32)

    def first_token(*, cached: bool) -> int:
        base.prefixes.clear()
        if cached:
            engine_sampling(base, [text[:history]], 1)
        started = time.perf_counter()
        engine_sampling(base, [text], 1)
        times[cached].append(time.perf_counter() - started)
        return 1

    times: dict[bool, list[float]] = {False: [], True: []}
    finish = time.perf_counter() + seconds
    while not times[True] or time.perf_counter() < finish:
        for cached in (False, True):
            first_token(cached=cached)
    computed, cached_time = (statistics.median(times[cached]) for cached in (False, True))
    print(
        f"  second turn after {history} tokens: first token after {cached_time:.2f} s, computed "
        f"{computed:.2f} s: {computed / cached_time:5.2f}x",
        flush=True,
    )


FIRST_STEP = """
import resource, sys, torch, transformers, peft
torch.set_num_threads(int(sys.argv[3]))
device, dtype = sys.argv[2], torch.bfloat16 if sys.argv[2] == "cuda" else torch.float32
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=dtype).to(device)
targets = sys.argv[4].split(",")
model = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules=targets))
ids = torch.arange(64, device=device)[None]
model(input_ids=ids, labels=ids).loss.backward()
torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]).step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def first_step(served: ServedModel, device: Device, threads: int, folder: Path) -> None:
    """Print a new engine's time to its first step, and its memory, compared with a script."""
    started = time.perf_counter()
    arguments = [str(served.path), device.name, str(threads), ",".join(TARGETS)]
    script = [sys.executable, "-c", FIRST_STEP, *arguments]
    answer = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    plain, plain_peak = time.perf_counter() - started, int(answer.stdout) / 2**20
    started = time.perf_counter()
    command = [sys.executable, "-m", "dreadnode_engine", "serve", "--data-dir", str(folder)]
    command += ["--model", f"bench={served.path}", "--no-stand-in", "--no-hf-cache"]
    command += ["--device", device.name, "--threads", str(threads)]
    command += ["--dtype", str(device.dtype).removeprefix("torch.")]
    engine = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"DREADNODE_ENGINE_KEY": ENGINE_KEY},
    )
    assert engine.stdout is not None
    url = engine.stdout.readline().split()[-1]
    ready = time.perf_counter() - started
    service = tinker.ServiceClient(base_url=url, api_key=ENGINE_KEY)
    run = service.create_lora_training_client("bench", rank=RANK).result()
    datum = SentDatum(
        model_input=ModelInput.from_ints(list(range(64))),
        loss_fn_inputs={"target_tokens": np.arange(64)},
    )
    run.forward_backward([datum], "cross_entropy")
    run.optim_step(AdamParams(learning_rate=1e-4)).result()
    ours = time.perf_counter() - started
    status = Path(f"/proc/{engine.pid}/status")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    service.close("success").result()
    engine.terminate()
    engine.wait(30)
    print(f"  ready in {ready:.1f} s; first step after {ours:.1f} s, by hand after {plain:.1f} s")
    print(
        f"  peak memory {int(peak.split()[1]) / 2**20:.2f} GiB, by hand {plain_peak:.2f} GiB",
        flush=True,
    )


def main() -> None:
    """Measure on a tiny model and on the stand-in, on the GPU too if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each comparison")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny-only", action="store_true", help="leave the stand-in out")
    parser.add_argument("--bfloat16", action="store_true", help="also with `--dtype bfloat16`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TINKER_TELEMETRY": "0"}
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    devices = [Device(), Device("cpu", torch.bfloat16)] if options.bfloat16 else [Device()]
    if torch.cuda.is_available():
        devices.append(Device("cuda", torch.bfloat16))
    cache = Path(tempfile.gettempdir()) / "dreadnode-bench"
    with tempfile.TemporaryDirectory() as folder:
        models = [tiny_model(Path(folder) / "tiny")]
        if not options.tiny_only:
            found = discover(cache, [], stand_in=True, cache=False)
            models += [found[STAND_IN_ID]] if STAND_IN_ID in found else []
        for device in devices:
            for i, served in enumerate(models):
                measure(served, device, options.seconds, Path(folder))
                data_dir = Path(folder) / f"engine-{device.name}-{device.dtype}-{i}"
                first_step(served, device, options.threads, data_dir)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process, both sides together: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
