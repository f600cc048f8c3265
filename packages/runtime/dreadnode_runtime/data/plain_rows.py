"""Rows that hold text instead of a conversation."""

from dataclasses import dataclass

from dreadnode_runtime.data import marks
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Row, Unusable, shown


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one row.

    Attributes:
        prompt: What precedes the text that carries loss, in rendered rows.
        text: What carries loss.
        weight: What the row's loss counts.
        unread: Fields of the row that were not read.
    """

    prompt: str
    text: str
    weight: float
    unread: tuple[str, ...]


def read_document(row: Row, *, rendered: bool) -> Document:
    """Return the text of ROW.

    Args:
        row: Of the dataset.
        rendered: Whether its text is rendered, and may be a prompt with a completion.

    Raises:
        Unusable: It has no text.
    """
    found = Findings()
    fields = Fields(row, found)
    weight = marks.row_weight(fields)
    prompt = ""
    if rendered and "text" not in fields and "prompt" in fields:
        prompt, text = _text(fields, "prompt"), _text(fields, "completion")
    else:
        text = _text(fields, "text")
    fields.close()
    return Document(prompt, text, weight, tuple(found.unread))


def _text(fields: Fields, name: str) -> str:
    value = fields.take(name)
    if value is None:
        names = ", ".join(f"`{each}`" for each in list(fields)[:12]) or "no fields"
        raise Unusable(f"no `{name}`; the row has {names}")
    if not isinstance(value, str):
        raise Unusable(f"its `{name}` is {shown(value)}, which is not text")
    if not value.strip():
        raise Unusable(f"its `{name}` is empty")
    return value
