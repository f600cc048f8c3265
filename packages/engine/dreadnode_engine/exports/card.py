"""The model card (README.md) of an export: what it is, how it was checked, how to load it."""

import re
from collections.abc import Mapping
from pathlib import Path

from dreadnode_engine.exports.check import Comparison
from dreadnode_engine.exports.gguf_lora import FILE
from dreadnode_engine.exports.peft_files import max_lora_rank

_LIBRARIES = {"peft": "peft", "vllm": "peft", "merged": "transformers", "gguf-lora": "gguf"}
_KINDS = {
    "peft": "A LoRA adapter (PEFT) of `{base}`.",
    "vllm": "A LoRA adapter of `{base}` for vLLM, with one rank and one scale for all layers.",
    "merged": "`{base}` with a LoRA adapter merged into its weights.",
    "gguf-lora": "A LoRA adapter of `{base}` in GGUF, for llama.cpp.",
}
_USES: Mapping[str, str] = {
    "peft": 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "FOLDER")',
    "vllm": "vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules trained=FOLDER",
    "merged": 'AutoModelForCausalLM.from_pretrained("FOLDER")',
    "gguf-lora": "llama-server --model BASE.gguf --lora FOLDER/" + FILE,
}


def write(
    to: Path,
    form: str,
    base_model: str,
    rank: int,
    check: Comparison | None,
    original: Path,
    *,
    whole: bool = False,
) -> None:
    """Write the card of the export in TO, with the one of the adapter in ORIGINAL below it.

    WHOLE says that transformers loads the base model only with its other towers.
    """
    title, body = _parts(original / "README.md")
    use = _USES[form].format(base=base_model, rank=max_lora_rank(rank) if form == "vllm" else rank)
    if whole:
        use = use.replace("AutoModelForCausalLM", "AutoModelForImageTextToText")
    tags = "\n".join(["tags:", "- lora"])
    text = [
        f"---\nbase_model: {base_model}\nlibrary_name: {_LIBRARIES[form]}\n{tags}\n---",
        f"# {title or f'{form} export of {base_model}'}",
        _KINDS[form].format(base=base_model),
        f"```\n{use}\n```",
        f"## Check\n\n{_checked(check)}",
    ]
    if body:
        text.append(body)
    (to / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _checked(check: Comparison | None) -> str:
    if check is None:
        return "This export was not checked."
    return (
        "Loaded in a new process, and compared with the engine's logits in float32 on "
        f"{check.tokens} tokens of text that no job trains on. The largest difference is "
        f"{check.difference:.2g}; the largest logit is {check.largest:.3g}, and the adapter "
        f"changes logits by up to {check.effect:.3g}."
    )


def _parts(card: Path) -> tuple[str, str]:
    """Return the title and the text of CARD without front matter; empty without a card."""
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "", ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip()
    match = re.match(r"# (.*)\n?", text)
    return (match[1], text[match.end() :].strip()) if match else ("", text)
