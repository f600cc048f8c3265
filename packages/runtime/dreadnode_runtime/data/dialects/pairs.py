"""Prompt and answer in one row: TRL prompt-completion, LLaMA-Factory and Alpaca, Dolly, and others.

| part | fields |
| --- | --- |
| prompt | `instruction` with `input`, else the first of PROMPTS; `context` follows it |
| answer | the first of ANSWERS |
| turns before | `history` |
"""

from typing import Any

from dreadnode_runtime.data.dialects.openai import read_messages
from dreadnode_runtime.data.dialects.sharegpt import read_history
from dreadnode_runtime.data.fields import Fields, Findings, holds
from dreadnode_runtime.data.normal_form import Unusable, scalar_text, shown
from dreadnode_runtime.data.turns import Turn, text_turn

PROMPTS = (
    "prompt",
    "input",
    "question",
    "task_prompt",
    "query",
    "problem",
    "inputs",
    "text_input",
    "user",
)
"""Where a prompt is looked for; the first one that the row has is used."""
ANSWERS = (
    "response",
    "completion",
    "expected_output",
    "target",
    "targets",
    "answer",
    "output",
    "solution",
    "assistant",
)
"""Where an answer is looked for; the first one that the row has is used."""


def has_pair(fields: Fields) -> bool:
    """Tell whether a row with FIELDS has a prompt or an answer."""
    return any(name in fields for name in ("instruction", *PROMPTS, *ANSWERS))


def read_prompt(fields: Fields, found: Findings) -> list[Turn]:
    """Return the turns of the prompt of a row with FIELDS, its history in front.

    Raises:
        Unusable: There is none.
    """
    raw = _prompt(fields)
    if raw is None:
        raise Unusable("no prompt" + _instead(fields))
    if raw == [] or (isinstance(raw, str) and not raw.strip()):
        raise Unusable("no prompt: it is empty")
    if isinstance(raw, list):
        turns = read_messages(raw, found, "prompt")
    else:
        turns = [text_turn("user", _joined(scalar_text(raw), fields))]
    history = fields.take("history")
    return [*read_history(history), *turns] if history else turns


def read_answer(fields: Fields, found: Findings) -> list[Turn]:
    """Return the turns of the answer of a row with FIELDS.

    Raises:
        Unusable: There is none, or it is empty.
    """
    # The worked solution of a problem, rather than its last line alone.
    first = ("solution",) if "problem" in fields else ()
    raw = fields.take(*first, *ANSWERS)
    if raw is None:
        raise Unusable("no answer" + _instead(fields))
    if isinstance(raw, list):
        if not raw:
            raise Unusable("an empty answer")
        return read_messages(raw, found, "completion")
    if not (text := scalar_text(raw)).strip():
        raise Unusable("an empty answer")
    return [text_turn("assistant", text)]


def expected_answer(fields: Fields) -> Any:
    """Take and return what a row with FIELDS expects as an answer; None where it does not say."""
    return fields.take(*ANSWERS)


def _prompt(fields: Fields) -> Any:
    instruction = fields.peek("instruction")
    if isinstance(instruction, str) and instruction.strip():
        return fields.take("instruction")
    fields.take(*(("instruction",) if instruction == "" else ()))
    return fields.take(*PROMPTS)


def _joined(prompt: str, fields: Fields) -> str:
    """Return PROMPT followed by what it is to be answered from."""
    pieces = [prompt]
    for name in ("input", "context"):
        value = fields.peek(name)
        if not holds(value):
            continue
        if not isinstance(value, str | int | float):
            raise Unusable(f"its `{name}` is {shown(value)}, which is not text")
        pieces.append(scalar_text(fields.take(name)))
    return "\n\n".join(pieces)


def _instead(fields: Fields) -> str:
    names = ", ".join(f"`{name}`" for name in list(fields)[:12])
    return f"; the row has {names}" if names else ""
