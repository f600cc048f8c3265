"""The tokenizer of a model."""

from pathlib import Path
from typing import Any

from dreadnode.training import get_training_model
from tinker_cookbook import tokenizer_utils

from dreadnode_runtime.errors import JobFailed, plain


def load_tokenizer(model: str, tokenizer: str) -> Any:
    """Return the tokenizer of MODEL, from the folder TOKENIZER or from where the hub's are kept.

    Raises:
        JobFailed: It cannot be loaded here; the sentence says what to do.
    """
    try:
        if Path(tokenizer).is_dir():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        if get_training_model(model) is None:
            raise ValueError(f"{model} is not in the catalog")  # noqa: TRY301
        return tokenizer_utils.get_tokenizer(model)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise JobFailed(
            f"The tokenizer of {model} cannot be loaded here ({plain(error)}); train a model whose "
            "folder the engine holds, or make its tokenizer available under HF_HOME",
            code="model",
        ) from error
