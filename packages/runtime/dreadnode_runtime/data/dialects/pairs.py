"""Prompt and answer in one row: TRL prompt-completion, LLaMA-Factory and Alpaca, Dolly, and others.

| part | fields |
| --- | --- |
| prompt | `instruction` with `input`, else the first of PROMPTS; `context` follows it |
| answer | the first of ANSWERS |
| turns before | `history`: pairs, or messages |
"""

import json
import re
from typing import Any

from dreadnode_runtime.data.dialects.openai import read_messages
from dreadnode_runtime.data.dialects.sharegpt import read_history
from dreadnode_runtime.data.fields import Fields, Findings, holds
from dreadnode_runtime.data.normal_form import Unusable, scalar_text, shown
from dreadnode_runtime.data.turns import Turn, text_turn

PROMPTS = (
    "prompt",
    "question",
    "task_prompt",
    "query",
    "problem",
    "input",
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
_OBJECTS = re.compile(r"\s*\[\s*\{")


def has_pair(fields: Fields) -> bool:
    """Return whether a row with FIELDS has a prompt or an answer."""
    return any(name in fields for name in ("instruction", *PROMPTS, *ANSWERS))


def read_prompt(fields: Fields, found: Findings) -> list[Turn]:
    """Return the turns of the prompt of a row with FIELDS, its history in front.

    Raises:
        Unusable: There is none.
    """
    raw = messages_in(_prompt(fields))
    if raw is None:
        raise Unusable("no prompt" + _instead(fields))
    if raw == [] or (isinstance(raw, str) and not raw.strip()):
        raise Unusable("no prompt: it is empty")
    if isinstance(raw, list):
        turns = read_messages(raw, found, "prompt")
    else:
        turns = [text_turn("user", _joined(scalar_text(raw), fields))]
    history = fields.take("history")
    return [*_history(history, found), *turns] if history else turns


def read_answer(fields: Fields, found: Findings) -> list[Turn]:
    """Return the turns of the answer of a row with FIELDS.

    Raises:
        Unusable: There is none, or it is empty.
    """
    # The worked solution of a problem, rather than its last line alone.
    first = ("solution",) if "problem" in fields else ()
    raw = messages_in(fields.take(*first, *ANSWERS))
    if raw is None:
        raise Unusable("no answer" + _instead(fields))
    if isinstance(raw, list):
        if not raw:
            raise Unusable("an empty answer")
        return read_messages(raw, found, "completion")
    if not (text := scalar_text(raw)).strip():
        raise Unusable("an empty answer")
    return [text_turn("assistant", text)]


def messages_in(raw: Any) -> Any:
    """Return the list of messages that the text RAW holds as JSON, as in CSV; else RAW itself."""
    if not isinstance(raw, str) or _OBJECTS.match(raw) is None:
        return raw
    try:
        value = json.loads(raw)
    except ValueError:
        return raw
    messages = all(isinstance(each, dict) and ("role" in each or "from" in each) for each in value)
    return value if messages else raw


def expected_answer(fields: Fields) -> Any:
    """Take and return what a row with FIELDS expects as an answer; None where it does not say."""
    return messages_in(fields.take(*ANSWERS))


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
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | int | float) for each in texts):
            raise Unusable(f"its `{name}` is {shown(value)}, which is not text")
        pieces += [scalar_text(each) for each in texts if holds(each)]
        fields.take(name)
    return "\n\n".join(pieces)


def _history(raw: Any, found: Findings) -> list[Turn]:
    """Return the turns of a `history`: messages, or pairs of a question and an answer."""
    raw = messages_in(raw)
    if isinstance(raw, list) and all(isinstance(each, dict) for each in raw):
        return read_messages(raw, found, "history")
    return read_history(raw)


def _instead(fields: Fields) -> str:
    names = ", ".join(f"`{name}`" for name in list(fields)[:12])
    return f"; the row has {names}" if names else ""
