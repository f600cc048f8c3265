"""The journey of one job, from `dn` through every real process to an adapter and back."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import tinker
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from .server import MODEL, STAND_IN, Server

ROWS = [
    {"messages": [{"role": "user", "content": f"{n} + {n}?"}, {"role": "assistant", "content": a}]}
    for n, a in enumerate(["two", "four", "six", "eight", "ten", "twelve"], start=1)
]
SFT = ("--batch-size", "3", "--learning-rate", "1e-2", "--lora-rank", "8")


def write_rows(path: Path, rows: object = ROWS) -> Path:
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def dataset(server: Server) -> str:
    """A dataset on the server, as NAME@VERSION."""
    rows = write_rows(server.folder / "rows.jsonl")
    said = server.dn("dataset", "push", str(rows), "sums@1.0.0")
    assert said.code == 0, said
    return "sums@1.0.0"


def submit(server: Server, *arguments: str) -> dict[str, object]:
    said = server.dn("train", "sft", "--model", MODEL, *SFT, *arguments, "--json")
    assert said.code == 0, said
    job: dict[str, object] = json.loads(said.out)
    return job


@contextmanager
def suspended(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes while the block runs."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def jobs(server: Server) -> list[str]:
    return [job["id"] for job in json.loads(server.dn("train", "list", "--json").out)]


def test_a_job_ends_with_a_lower_loss_and_an_adapter_that_plain_peft_loads(
    server: Server, dataset: str, tmp_path: Path
) -> None:
    job = submit(server, "--dataset", dataset, "--epochs", "6", "--wait")
    shown = json.loads(server.dn("train", "get", str(job["id"]), "--json").out)
    downloaded = server.dn("train", "download", str(job["id"]), "--to", str(tmp_path))
    adapter = next(tmp_path.rglob("adapter_config.json")).parent
    answer = subprocess.run(
        [
            *(sys.executable, Path(__file__).parents[1] / "examples" / "load_adapter.py"),
            *("--base", server.model, "--adapter", adapter, "1 + 1?"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    merged = tmp_path / "merged"
    exported = server.dn(
        *("train", "export", str(job["id"]), "--to", str(merged), "--base", str(server.model)),
        "--no-check",
    )

    assert exported.code == 0, exported.err
    tokens = list(range(1, 20))
    assert model_logprobs(AutoModelForCausalLM.from_pretrained(merged), tokens) == pytest.approx(
        peft_logprobs(server.model, adapter, tokens), abs=1e-4
    )
    assert shown["status"] == "completed"
    assert shown["trained_model"] == MODEL
    assert shown["rehearsal"] is False
    losses = shown["metrics"]["train/loss"]
    assert len(losses) == shown["metrics"]["train/steps"] == 12
    assert losses[-1] < losses[0]
    assert downloaded.code == 0
    assert answer.returncode == 0, answer.stderr


def test_peft_and_the_engine_load_the_same_earlier_checkpoint(
    server: Server, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = ("--dataset", dataset, "--steps", "6", "--checkpoint-interval", "2", "--wait")
    job = str(submit(server, *wish)["id"])
    known = engine_checkpoints(server, monkeypatch)

    fetched = server.dn(
        *("train", "download", job, "--checkpoint", "step-000002", "--to", str(tmp_path / "two"))
    )
    again = server.dn("train", "download", job, "--checkpoint", "step-000002")
    server.dn("train", "download", job, "--to", str(tmp_path / "last"))
    listed = json.loads(server.dn("train", "checkpoints", job, "--json").out)

    assert fetched.code == again.code == 0, fetched.err + again.err
    assert f"{MODEL} after step 2 (step-000002)" in fetched.err
    assert f"base_model: {MODEL}\n" in (tmp_path / "two/README.md").read_text()
    two = next(each for each in listed if each["step"] == 2)
    assert two["adapter"] == "checkpoints/step-000002/"
    assert engine_checkpoints(server, monkeypatch) == known
    tokens = list(range(1, 20))
    there = engine_logprobs(two["path"], tokens)
    here, last = (peft_logprobs(server.model, tmp_path / name, tokens) for name in ("two", "last"))
    assert here == pytest.approx(there, abs=1e-4)
    assert last != pytest.approx(there, abs=1e-2)


def test_a_job_starts_from_an_adapter_that_plain_peft_trained(
    server: Server, dataset: str, tmp_path: Path
) -> None:
    lora = write_lora(server.model, tmp_path / "lora")
    # Training at this rate changes nothing.
    command = ("train", "sft", "--model", MODEL, "--dataset", dataset, "--learning-rate", "1e-12")
    command += ("--steps", "1", "--batch-size", "3", "--json", "--from-adapter", str(lora))
    before = jobs(server)

    other = server.dn(*command)
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": MODEL})
    )
    wrong = server.dn(*command, "--lora-rank", "8")
    assert jobs(server) == before
    done = server.dn(*command, "--wait")
    rehearsed = server.dn(*command, "--rehearse")

    assert (other.code, wrong.code) == (1, 1)
    assert "The adapter was trained on" in other.err
    assert "`--lora-rank` is 8, and the adapter of `--from-adapter` has 4" in wrong.err
    assert (done.code, rehearsed.code) == (0, 0), (done, rehearsed)
    assert "`k_proj`, `o_proj` are new" in done.err
    assert "the rehearsal starts with a new adapter" in rehearsed.err
    job = json.loads(done.out)
    assert job["config"]["lora_rank"] == 4
    server.dn("train", "download", job["id"], "--to", str(tmp_path / "trained"))
    tokens = list(range(1, 20))
    expected = peft_logprobs(server.model, lora, tokens)
    found = peft_logprobs(server.model, tmp_path / "trained", tokens)
    assert found == pytest.approx(expected, abs=1e-4)


def write_lora(model: Path | None, folder: Path) -> Path:
    """Write an adapter of MODEL with random weights, as plain PEFT saves it."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    modules = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(5)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=modules,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def engine_checkpoints(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of all that the server's engine keeps."""
    address = f"http://127.0.0.1:{server.ports[1]}"
    key = (server.data / "engine.key").read_text().strip()
    monkeypatch.setenv("TINKER_BASE_URL", address)
    monkeypatch.setenv("TINKER_API_KEY", key)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    rest = tinker.RestClient(base_url=address, api_key=key)
    found = rest.list_user_checkpoints(limit=1000).result()
    return sorted(each.tinker_path for each in found.checkpoints)


def engine_logprobs(path: str, tokens: list[int]) -> list[float]:
    """Return how likely the engine, sampling from the checkpoint PATH, finds each of TOKENS."""
    trained = tinker.ServiceClient().create_training_client_from_state(path).result()
    sampler = trained.save_weights_and_get_sampling_client().result()
    prompt = tinker.types.ModelInput.from_ints(tokens)
    return [each for each in sampler.compute_logprobs(prompt).result() if each is not None]


def peft_logprobs(model: Path, adapter: Path, tokens: list[int]) -> list[float]:
    """Return how likely the base MODEL with ADAPTER, by PEFT alone, finds each of TOKENS."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return model_logprobs(PeftModel.from_pretrained(base, adapter), tokens)


def model_logprobs(model: torch.nn.Module, tokens: list[int]) -> list[float]:
    """Return how likely MODEL finds each of TOKENS."""
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([tokens])).logits[0]
    logprobs = logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])
    found: list[float] = logprobs[:, 0].tolist()
    return found


def test_events_and_files_of_a_job_can_be_read_afterwards(server: Server, dataset: str) -> None:
    job = str(submit(server, "--dataset", dataset, "--steps", "2", "--wait")["id"])

    logs = server.dn("train", "logs", job)
    artifacts = json.loads(server.dn("train", "artifacts", job, "--json").out)["artifacts"]

    assert logs.code == 0
    assert "6 of 6 rows" in logs.out
    assert artifacts["dataset"] == dataset
    assert artifacts["latest_checkpoint"].startswith("tinker://")


def test_a_rehearsal_is_marked_everywhere(server: Server, dataset: str) -> None:
    job = submit(server, "--dataset", dataset, "--steps", "1", "--rehearse", "--wait")
    shown = server.dn("train", "get", str(job["id"]))
    listed = server.dn("train", "list")

    assert job["rehearsal"] is True
    assert job["trained_model"] == STAND_IN
    assert job["model"] == MODEL
    assert "rehearsal" in shown.out
    assert "rehearsal" in listed.out


def test_an_unknown_model_is_refused_in_the_documented_words(server: Server, dataset: str) -> None:
    before = jobs(server)
    said = server.dn(
        *("train", "sft", "--model", "meta-llama/Llama-3.1-8B-Instruc", "--dataset", dataset)
    )

    assert said.code == 1
    assert said.out == ""
    assert said.err == (
        "error: Unknown training base model 'meta-llama/Llama-3.1-8B-Instruc'.\n"
        "Did you mean one of: meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-8B?\n"
    )
    assert jobs(server) == before
    assert server.processes("--job-id") == []


def test_a_model_without_weights_is_refused_with_an_alternative(
    server: Server, dataset: str
) -> None:
    before = jobs(server)
    said = server.dn("train", "sft", "--model", "openai/gpt-oss-20b", "--dataset", dataset)

    assert said.code == 1
    assert "--rehearse" in said.err
    assert jobs(server) == before


def test_a_cancelled_job_keeps_a_checkpoint_and_its_retry_ends_with_the_bits_of_an_unbroken_run(
    server: Server, dataset: str
) -> None:
    clipped = ("--grad-clip-norm", "0.3", "--weight-decay", "0.1")
    request = ("--dataset", dataset, "--steps", "60", *clipped)
    job = str(submit(server, *request)["id"])
    wait_for_step(server, job, 2)

    # Stopped while it is cancelled, so that a busy machine cannot let it end before.
    with suspended(server.processes(f"--job-id {job}")):
        said = server.dn("train", "cancel", job)
    waited = server.dn("train", "wait", job)
    kept = json.loads(server.dn("train", "checkpoints", job, "--json").out)
    retry = json.loads(server.dn("train", "retry", job, "--json").out)
    unbroken = submit(server, *request, "--wait")
    server.dn("train", "wait", retry["id"])
    repeated = json.loads(server.dn("train", "get", retry["id"], "--json").out)

    assert said.code == 0
    assert waited.code == 1
    assert "cancelled" in waited.out + waited.err
    assert kept[-1]["step"] >= 2
    assert kept[-1]["state"] == "ready"
    assert (retry["retry_of"], retry["start_step"]) == (job, kept[-1]["step"])
    assert f"from step {kept[-1]['step']}" in server.dn("train", "logs", retry["id"]).out
    whole = json.loads(server.dn("train", "get", str(unbroken["id"]), "--json").out)
    # A retry costs only its own steps.
    assert repeated["metrics"].pop("cost/list_usd") < whole["metrics"].pop("cost/list_usd")
    assert repeated["metrics"] == whole["metrics"]


def content(path: Path) -> bytes:
    """Return the bytes of a file; none if the engine has deleted it since it was listed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_after_a_job_every_log_line_is_an_object_without_keys(server: Server, dataset: str) -> None:
    job = str(submit(server, "--dataset", dataset, "--steps", "1", "--wait")["id"])
    server.dn("train", "get", "no-such-job")
    master = (server.data / "engine.key").read_text().strip().encode()
    key = re.compile(rb"dnj?_[\w-]{43}|tml-run\.[\w-]|whsec_|" + re.escape(master))

    told = [server.dn("train", *each, job).out for each in (("get", "--json"), ("logs",))]
    found = {path.name for path in files(server.data) if key.search(content(path))}
    lines = [
        json.loads(line)
        for name in ("api", "dispatcher")
        for line in (server.data / "logs" / f"{name}.log").read_text().splitlines()
        if " ready" not in line  # What the processes tell whoever started them.
    ]
    about = [line for line in lines if line.get("job_id") == job]

    assert not key.search("".join(told).encode())
    assert found == {"engine.key"}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert {"dreadnode_api.access", "dreadnode_api.jobs.dispatcher"} <= {
        line["logger"] for line in about
    }
    assert all(line["request_id"] for line in about if line["logger"] == "dreadnode_api.access")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_second_start_keeps_everything_and_a_stop_leaves_no_process(
    server: Server, dataset: str
) -> None:
    job = str(submit(server, "--dataset", dataset, "--steps", "1", "--wait")["id"])

    stopped = server.stop()
    left = server.processes()
    server.start()
    again = server.dn("train", "get", job, "--json")

    assert stopped == 0
    assert left == []
    assert json.loads(again.out)["status"] == "completed"


def wait_for_step(server: Server, job: str, step: int, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        shown = json.loads(server.dn("train", "get", job, "--json").out)
        if shown["progress"] and shown["progress"]["step"] >= step:
            return
        assert shown["status"] in ("queued", "running"), shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
