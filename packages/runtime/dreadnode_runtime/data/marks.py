"""Which messages of a row carry loss: the one reader of marks, for every dialect.

| mark | of | values |
| --- | --- | --- |
| `weight`, `train`, `trainable`, `training`, `loss` | an assistant message | 0, 1, true, false |
| `weight` | a row | 0 leaves it out, up to MAX_WEIGHT multiplies its loss |
| `label`, `is_preferred`, `kto_tag`, … (LABELS) | a row | false leaves it out as a bad answer |

A mark that is not in this table is refused by its name: it is never taken for a field without
meaning.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from dreadnode_runtime.data.fields import Fields
from dreadnode_runtime.data.normal_form import Conversation, Message, Unusable, shown

MARKS = ("weight", "train", "trainable", "training", "loss")
"""Fields by which a message says whether it carries loss."""
MAX_WEIGHT = 10.0
"""The largest weight of a row."""
LABELS = (
    "label",
    "labels",
    "is_preferred",
    "preferred",
    "kto_tag",
    "desirable",
    "is_desirable",
    "is_good",
    "is_chosen",
    "is_correct",
    "accepted",
    "is_accepted",
    "thumbs_up",
)
"""Fields by which a row says whether its answer is a good one."""
ROW_MARKS = frozenset(
    {
        "loss",
        "loss_mask",
        "loss_scale",
        "loss_weight",
        "weights",
        "sample_weight",
        "row_weight",
        "train",
        "trainable",
        "train_mask",
        "assistant_masks",
        "completion_mask",
        "label_mask",
        "mask",
    }
)
"""Fields of a row by which other tools choose what is learnt, and which are not honoured here."""
_LIKE_A_MARK = re.compile(
    r"(?:^|_)(?:train(?:ing|able|ed)?|loss|weights?|mask(?:ed|s)?|learn(?:ed|able)?|ignored?)(?:_|$)"
)
_VERDICTS: dict[int | float | str, bool] = {
    **dict.fromkeys((1, "1", "true", "yes", "good", "desirable", "chosen", "accepted"), True),
    **dict.fromkeys((0, "0", "false", "no", "bad", "undesirable", "rejected"), False),
}
"""What a label says, where it says whether an answer is good; other labels are classes."""


def message_mark(fields: Fields, role: str) -> bool | None:
    """Return whether a message's FIELDS mark it for training; None where they do not say.

    Marks on messages of other roles than assistant do not count.

    Raises:
        Unusable: A mark is unknown, has another value, or contradicts another.
    """
    marks: dict[str, bool] = {}
    for name in [each for each in fields if each in MARKS]:
        value = fields.take(name)
        if role != "assistant":
            continue
        if not isinstance(value, int | float) or value not in (0, 1):
            raise Unusable(f"a message's `{name}` is {shown(value)}; it must be 0 or 1")
        marks[name] = bool(value)
    if role == "assistant":
        for name in fields:
            if _LIKE_A_MARK.search(name):
                raise Unusable(
                    f"a message has the mark `{name}`, which is unknown; use `weight`, 0 or 1"
                )
    if len(set(marks.values())) > 1:
        names = " and ".join(f"`{name}`" for name in marks)
        raise Unusable(f"the marks {names} of a message contradict each other")
    return next(iter(marks.values()), None)


def row_weight(fields: Fields) -> float:
    """Return what the loss of a row with FIELDS counts.

    Raises:
        Unusable: It is 0, or not a weight; or another field of the row would say what is learnt.
    """
    for name in fields:
        if name in ROW_MARKS:
            raise Unusable(
                f"the row has the mark `{name}`, which is unknown; "
                "use `weight` on the row or on its messages"
            )
    if "weight" not in fields:
        return 1.0
    value = fields.take("weight")
    numeric = isinstance(value, int | float) and math.isfinite(value)
    if not numeric or not 0 <= value <= MAX_WEIGHT:
        raise Unusable(f"its `weight` is {shown(value)}; it must be from 0 to {MAX_WEIGHT:g}")
    if value == 0:
        raise Unusable("its `weight` is 0")
    return float(value)


def refuse_bad_answer(fields: Fields) -> None:
    """Return if no label among a row's FIELDS says that its answer is a bad one.

    A label that is neither true nor false, such as the class of a text, is left unread.

    Raises:
        Unusable: One does.
    """
    for name in LABELS:
        verdict = _verdict(fields.peek(name))
        if verdict is False:
            raise Unusable(f"a bad answer: its `{name}` is {shown(fields.peek(name))}")
        if verdict is True:
            fields.take(name)


def trained_messages(conversation: Conversation, train_on: str) -> list[int]:
    """Return the indices of the messages of CONVERSATION that carry loss.

    Args:
        conversation: The conversation; its own marks override TRAIN_ON.
        train_on: Which assistant messages the job trains on.

    Raises:
        Unusable: There is none, or one of them is empty.
    """
    trained = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
    if conversation.chosen is not None:
        trained = [i for i in trained if i in conversation.chosen]
    elif train_on == "last_assistant_message":
        trained = trained[-1:]
    elif train_on == "last_assistant_turn":
        users = [i for i, m in enumerate(conversation.messages) if m["role"] == "user"]
        trained = [i for i in trained if i > max(users, default=-1)]
    if not trained:
        raise Unusable("no assistant message to train on")
    if any(is_silent(conversation.messages[i]) for i in trained):
        raise Unusable("an empty answer")
    return trained


def is_silent(message: Message) -> bool:
    """Return whether MESSAGE has neither text nor images nor tool calls."""
    if message.get("tool_calls"):
        return False
    content = message["content"]
    if isinstance(content, str):
        return not content.strip()
    return not any(
        part["type"] == "image" or (part["type"] == "text" and part["text"].strip())
        for part in content
    )


def chosen(marks: Sequence[bool | None], roles: Sequence[str]) -> frozenset[int] | None:
    """Return which assistant messages MARKS choose; None where there are no marks.

    An unmarked assistant message beside marked ones is trained: the default of `weight` is 1.
    """
    if all(mark is None for mark in marks):
        return None
    pairs = enumerate(zip(marks, roles, strict=True))
    return frozenset(i for i, (mark, role) in pairs if role == "assistant" and mark is not False)


def _verdict(label: Any) -> bool | None:
    if isinstance(label, str):
        return _VERDICTS.get(label.strip().lower())
    if isinstance(label, int | float):
        return _VERDICTS.get(label)
    return None
