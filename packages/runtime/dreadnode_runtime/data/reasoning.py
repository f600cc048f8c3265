"""Reasoning that is written into an assistant's text, between `<think>` and `</think>`.

Only text that begins with `<think>` holds reasoning. A tag further on is text like any other.
"""

from dreadnode_runtime.data.normal_form import Part, TextPart, ThinkingPart, Unusable

OPEN, CLOSE = "<think>", "</think>"


def split_reasoning(parts: list[Part]) -> list[Part]:
    """Return PARTS of an assistant's message with the reasoning of its text as parts of its own.

    Reasoning that repeats what a part before it says is dropped. Blank reasoning is absent.

    Raises:
        Unusable: The text begins with `<think>` and never ends it, or what it holds is not what
            the row's own reasoning field says.
    """
    at = next((i for i, part in enumerate(parts) if part["type"] == "text"), None)
    if at is None:
        return parts
    first = parts[at]
    if first["type"] != "text" or not first["text"].lstrip().startswith(OPEN):
        return parts
    thoughts, text = _split(first["text"])
    before = [part["thinking"].strip() for part in parts[:at] if part["type"] == "thinking"]
    if before and thoughts and thoughts not in (before, ["\n\n".join(before)]):
        raise Unusable("its reasoning field and the text between `<think>` tags differ")
    new: list[Part] = []
    if thoughts and not before:
        new.append(ThinkingPart(type="thinking", thinking="\n\n".join(thoughts)))
    if text:
        new.append(TextPart(type="text", text=text))
    return [*parts[:at], *new, *parts[at + 1 :]]


def _split(text: str) -> tuple[list[str], str]:
    """Return the leading thoughts of TEXT, each once, and what follows them."""
    thoughts: list[str] = []
    while (rest := text.lstrip()).startswith(OPEN):
        thought, end, text = rest[len(OPEN) :].partition(CLOSE)
        if not end:
            raise Unusable("a text that begins with `<think>` and has no `</think>`")
        thought = thought.strip()
        if thought and thought not in thoughts:
            thoughts.append(thought)
        text = text.lstrip("\r\n")
    return thoughts, text
