"""What every package's tests share: tiny random models, made on the spot."""

import asyncio
import gc
import json
import logging
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TINKER_TELEMETRY", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
)


def write_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer with Qwen's chat tokens to FOLDER; return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bytes_only = {
        character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocab=bytes_only, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def write_tiny_model(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Write a random model of about 100,000 parameters and its tokenizer to FOLDER.

    Args:
        folder: Where to; made if missing.
        architecture: `llama`, `qwen3` or `qwen3_moe`.
        seed: Of the weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokens = write_tokenizer(folder)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=tokens,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **(experts if architecture.endswith("_moe") else {}),
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a tokenizer that knows Qwen's chat tokens."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-llama"))


class SkipsFail:
    """Makes a run fail that skipped a test, where every optional tool is installed."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a skipped test and its reason."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a module that was skipped whole."""
        if report.skipped:
            self._record(report)

    def _record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.skipped[report.nodeid] = str(reason)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if a test was skipped."""
        if self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the skipped tests."""
        for test, reason in self.skipped.items():
            terminalreporter.write_line(
                f"skipped, which counts as a failure here: {test}: {reason}"
            )


def pytest_sessionstart() -> None:
    """Collect the tests without garbage collections: what is imported then stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Drop loggers' handlers and SDK clients that tests left, while streams and modules are whole.

    At the end of the process they would write errors of their own.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    gc.unfreeze()
    gc.collect()


def pytest_configure(config: pytest.Config) -> None:
    """Count skips as failures where DREADNODE_FAIL_ON_SKIP is set, as `.ci/run` does."""
    if os.environ.get("DREADNODE_FAIL_ON_SKIP") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipsFail())


SLOWEST = (
    "test_journey", "test_console_in_a_browser", "test_dispatcher",
    "test_chaos_of_a_whole_server", "test_published_client", "test_architectures",
    "test_paid_job", "test_tool_jobs", "test_workers_on_ray", "test_openai_clients",
    "test_models", "test_ray_runner", "test_adding_a_setting", "test_crashes", "test_workers",
    "test_chaos", "test_format_properties", "test_bad_network", "test_hostile", "test_readme",
    "test_wheels", "test_memory", "test_exports",
)  # fmt: skip
"""The modules that take longest; they start first, so that no worker ends long before the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest modules first; a worker takes one module after the other."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module", autouse=True)
def _stop_sdk_tasks() -> Iterator[None]:
    """Stop what the SDK's clients of a module still run when their engine is gone.

    The task that sends a session's heartbeats keeps its client alive, so a client that a test
    does not close would log its failures until the process ends, and into closed streams then.
    """
    yield
    sdk = sys.modules.get("tinker.lib.internal_client_holder")
    if sdk is not None:
        loop = sdk._internal_client_holder_thread_singleton.get_loop()
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), loop).result(timeout=60)


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class WarmProcess:
    """A program that was started as a copy of a warm process, with the methods of `Popen`.

    Args:
        connection: The connection to the warm process.
        request: What to run: `module`, `arguments`, `environment` and `folder`.
        stderr: Where its errors go: a descriptor, or `subprocess.STDOUT`.
    """

    def __init__(self, connection: socket.socket, request: Mapping[str, Any], stderr: int) -> None:
        stdin, stdin_write = os.pipe()
        stdout_read, stdout = os.pipe()
        self._status, status = os.pipe()
        streams = [stdin, stdout, stdout if stderr == subprocess.STDOUT else stderr, status]
        socket.send_fds(connection, [json.dumps(request).encode()], streams)
        for each in (stdin, stdout, status):
            os.close(each)
        self.stdin = os.fdopen(stdin_write, "w")
        self.stdout = os.fdopen(stdout_read)
        self.args = request["arguments"]
        self.returncode: int | None = None
        self.pid = int(self._line(None))

    def _line(self, seconds: float | None) -> str:
        """Return the next line about its status; an empty one if there is none in time."""
        ready, _, _ = select.select([self._status], [], [], seconds)
        line = b""
        while ready and not line.endswith(b"\n"):
            line += os.read(self._status, 1)
        return line.decode()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None and (line := self._line(0.0)):
            self.returncode = int(line)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended."""
        if self.returncode is None:
            line = self._line(timeout)
            if not line:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(line)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return the rest of its output, once it has ended; kill it after TIMEOUT."""
        self.stdin.close()
        watch = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        watch.start()
        try:
            return self.stdout.read(), None
        finally:
            watch.cancel()
            self.wait(timeout)


class WarmServer:
    """Starts copies of a process that has imported MODULE and IMPORTS: see `warm_server.py`."""

    def __init__(self, module: str, *imports: str) -> None:
        self._module = module
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("tests") / "warm_server.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), f"{module}.__main__", *imports], stdin=theirs.fileno()
        )
        theirs.close()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        stderr: int = 2,
    ) -> WarmProcess:
        """Start `python -m` of the module with ARGUMENTS in ENVIRONMENT and FOLDER."""
        request = {
            "module": self._module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder or Path.cwd()),
        }
        return WarmProcess(self._connection, request, stderr)

    def close(self) -> None:
        """End the warm process."""
        self._connection.close()
        self._process.wait()


@pytest.fixture(scope="session")
def warm_engine() -> Iterator[WarmServer]:
    """Start engines, each a process of its own, without the seconds that their imports take."""
    server = WarmServer(
        "dreadnode_engine", "dreadnode_engine.http.app", "dreadnode_engine.compute.probe"
    )
    yield server
    server.close()


@pytest.fixture(scope="session")
def warm_runtime() -> Iterator[WarmServer]:
    """Start the runtime for jobs, without the seconds that its imports take."""
    server = WarmServer("dreadnode_runtime")
    yield server
    server.close()


@pytest.fixture(scope="session")
def warm_api() -> Iterator[WarmServer]:
    """Start processes of the API, without the seconds that their imports take."""
    server = WarmServer(
        "dreadnode_api", "dreadnode_api.main", "dreadnode_api.http.protocol", "uvicorn", "uvloop"
    )
    yield server
    server.close()


_COPY = """
CREATE TABLE IF NOT EXISTS copies (id TEXT PRIMARY KEY, kind TEXT, body BLOB, result BLOB);
CREATE TRIGGER IF NOT EXISTS keep_body AFTER INSERT ON requests BEGIN
    INSERT INTO copies VALUES (NEW.id, NEW.kind, NEW.body, NULL);
END;
CREATE TRIGGER IF NOT EXISTS keep_result AFTER UPDATE OF result ON requests
WHEN NEW.result IS NOT NULL BEGIN
    UPDATE copies SET result = NEW.result WHERE id = NEW.id AND NEW.state = 'done';
END;
DELETE FROM copies;
"""
"""Keeps every request and result of the journal, which deletes them soon."""


class EngineCounter:
    """Counts tokens from outside of the client, in the journal of an engine."""

    def __init__(self, data_dir: Path) -> None:
        self._journal = sqlite3.connect(data_dir / "engine.sqlite3", timeout=30)
        self._journal.executescript(_COPY)

    def forget(self) -> None:
        """Start to count again."""
        self._journal.executescript("DELETE FROM copies;")

    def tokens(self) -> dict[str, int]:
        """Return the tokens of all requests and results since this counter was made."""
        from tinker.proto import tinker_public_pb2 as pb

        tokens = dict.fromkeys(("prefill", "cached_prefill", "sample", "train"), 0)
        for kind, body, result in self._journal.execute("SELECT kind, body, result FROM copies"):
            if kind in ("forward", "forward_backward"):
                tokens["train"] += sum(
                    len(chunk.encoded_text.tokens) // 4
                    for datum in pb.ForwardBackwardRequest.FromString(body).data
                    for chunk in datum.model_input
                )
            elif kind == "sample":
                chunks = json.loads(body)["prompt"]["chunks"]
                prompt = sum(len(chunk["tokens"]) for chunk in chunks)
                response = pb.SampleResponse.FromString(result)
                hits, completions = response.prompt_cache_hit_tokens, len(response.sequences)
                tokens["prefill"] += prompt - hits
                tokens["cached_prefill"] += hits + prompt * (completions - 1)
                tokens["sample"] += sum(len(each.tokens) // 4 for each in response.sequences)
        return tokens


@pytest.fixture(scope="session")
def engine_counter() -> Callable[[Path], EngineCounter]:
    """Count what an engine with a data directory is sent, and sends back."""
    return EngineCounter
