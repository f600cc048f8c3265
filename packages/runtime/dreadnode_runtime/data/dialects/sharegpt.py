"""ShareGPT and ms-swift: turns of `from` and `value`, and calls as turns of their own.

The turns themselves are read with `openai.read_message`, which knows the names of their speakers.
"""

from typing import Any

from dreadnode_runtime.data.normal_form import TextPart, Unusable, shown
from dreadnode_runtime.data.turns import Turn, text_turn

FIELDS = ("messages", "conversations", "conversation")
"""Where a row's messages are looked for; the first one that holds any is used."""


def read_history(raw: Any) -> list[Turn]:
    """Return the turns of a `history` of LLaMA-Factory or ms-swift: pairs of question and answer.

    Raises:
        Unusable: It is not a list of pairs of text.
    """
    turns: list[Turn] = []
    if not isinstance(raw, list):
        raise Unusable(f"its `history` is {shown(raw)}, which is not a list of pairs")
    for pair in raw:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise Unusable(f"its `history` holds {shown(pair)}, which is not a pair of texts")
        turns += [text_turn("user", pair[0]), text_turn("assistant", pair[1])]
    return turns


def place_images(turns: list[Turn], images: list[Any], read: Any) -> None:
    """Put IMAGES, a field of the row, where `<image>` stands in the text of TURNS.

    Raises:
        Unusable: There are more or fewer of them than places.
    """
    left = list(images)
    for turn in turns:
        placed: list[Any] = []
        for part in turn.parts:
            if part["type"] != "text" or "<image>" not in part["text"]:
                placed.append(part)
                continue
            first, *rest = part["text"].split("<image>")
            placed += [TextPart(type="text", text=first)] if first else []
            for text in rest:
                if not left:
                    raise Unusable("its text has more `<image>` than `images` has entries")
                placed.append(read(left.pop(0)))
                placed += [TextPart(type="text", text=text)] if text else []
        turn.parts = placed
    if left:
        raise Unusable(f"`images` has {len(images)} entries, and the text has fewer `<image>`")
