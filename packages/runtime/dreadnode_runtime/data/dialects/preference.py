"""Preference rows: two answers to one prompt, of which supervised training takes one."""

from dreadnode_runtime.data.fields import Fields
from dreadnode_runtime.data.normal_form import Unusable

GOOD = ("chosen", "preferred_output", "chosen_response")
BAD = ("rejected", "non_preferred_output", "rejected_response", "rejected_messages")


def refuse_preference(fields: Fields) -> None:
    """Return if a row with FIELDS does not hold a better and a worse answer.

    Raises:
        Unusable: It does; the sentence says how to train on the better one.
    """
    names = [name for name in (*GOOD, *BAD) if name in fields]
    if not any(name in BAD for name in names) and "chosen" not in names:
        return
    listed = ", ".join(f"`{name}`" for name in names)
    raise Unusable(
        f"a preference row ({listed}): supervised training takes one answer; keep the better one "
        "as `completion` beside `prompt`, or in `messages`, and remove the other"
    )
