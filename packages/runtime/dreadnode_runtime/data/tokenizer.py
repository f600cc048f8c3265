"""The tokenizer of a model."""

from pathlib import Path
from typing import Any

from dreadnode.training import get_training_model
from tinker_cookbook import tokenizer_utils

from dreadnode_runtime.errors import JobFailed, plain

FILE = "tokenizer.json"
MAX_BYTES = 64 * 2**20
"""The largest file of a tokenizer; the largest known ones have 35 MB."""
VOCABULARIES = {
    "Qwen/Qwen3-": 151_643,
    "meta-llama/": 128_000,
    "thinkingmachineslabinc/meta-llama-3": 128_000,
    "openai/gpt-oss-": 199_998,
    "tml-renderers:O200k": 199_998,
    "deepseek-ai/DeepSeek-V3.1": 128_000,
}
"""How many tokens tokenizers have without those that are added, by how their ids begin."""


def load_tokenizer(model: str, tokenizer: str) -> Any:
    """Return the tokenizer of MODEL, from the folder TOKENIZER or from where the hub's are kept.

    Raises:
        JobFailed: It cannot be loaded here; the sentence says what to do.
    """
    try:
        if Path(tokenizer).is_dir():
            return _from_folder(tokenizer)
        if get_training_model(model) is None:
            raise ValueError(f"{model} is not in the catalog")  # noqa: TRY301
        return tokenizer_utils.get_tokenizer(model)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise JobFailed(
            f"The tokenizer of {model} cannot be loaded here ({plain(error)}); train a model whose "
            "folder the engine holds, make its tokenizer available under HF_HOME, name a folder "
            "with it as `tokenizer`, or rehearse the job, which estimates its tokens",
            code="model",
        ) from error


def chosen_tokenizer(model: str, folder: str, own: str) -> Any:
    """Return the tokenizer in FOLDER, which a job names as that of MODEL.

    Args:
        model: Catalog id of the model.
        folder: What the job names.
        own: Folder of the tokenizer of the model that the engine holds, or its id on a hub.

    Raises:
        JobFailed: It cannot be loaded, or is that of another model.
    """
    try:
        if (Path(folder) / FILE).stat().st_size > MAX_BYTES:
            raise ValueError(f"{FILE} is larger than {MAX_BYTES} bytes")  # noqa: TRY301
        loaded = _from_folder(folder)
    except Exception as error:
        # Files of any kind, and of any damage, are read by libraries here. A sentence for all of
        # them does not tell which folders of the server there are.
        raise JobFailed(
            f"`tokenizer` is {folder}, where this server finds no tokenizer that it can load; give "
            f"the path of a folder on the server's machine with {FILE} and tokenizer_config.json",
            code="tokenizer",
        ) from error
    if (difference := _difference(model, loaded, own)) is not None:
        raise JobFailed(
            f"`tokenizer` is {folder}, which is not the tokenizer of {model}: {difference}",
            code="tokenizer",
        )
    return loaded


def _from_folder(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _difference(model: str, loaded: Any, own: str) -> str | None:
    """Return in which way LOADED differs from the tokenizer of MODEL, as far as that is known."""
    if Path(own).is_dir():
        wanted, found = _from_folder(own).get_vocab(), loaded.get_vocab()
        if len(wanted) != len(found):
            return f"it has {len(found):,} tokens, and that of the engine's model {len(wanted):,}"
        other = next((name for name, number in wanted.items() if found.get(name) != number), None)
        return None if other is None else f"the token `{other}` of the engine's model differs"
    entry = get_training_model(model)
    name = (entry.tokenizer_id if entry else None) or model
    size = next((n for start, n in VOCABULARIES.items() if name.startswith(start)), None)
    if size is None or loaded.vocab_size == size:
        return None
    return f"it has {loaded.vocab_size:,} tokens besides the added ones, and that one {size:,}"
