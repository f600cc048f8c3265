"""What every package's tests share: tiny random models, made on the spot."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

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


def pytest_configure(config: pytest.Config) -> None:
    """Count skips as failures where DREADNODE_FAIL_ON_SKIP is set, as `.ci/run` does."""
    if os.environ.get("DREADNODE_FAIL_ON_SKIP") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipsFail())


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
