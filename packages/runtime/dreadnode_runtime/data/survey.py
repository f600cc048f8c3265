"""A survey of a dataset's rows before any job names it, without a model and a tokenizer."""

from collections.abc import Callable
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.marks import trained_messages
from dreadnode_runtime.data.normal_form import Conversation, Row, Unusable
from dreadnode_runtime.data.plain_rows import Document, read_document
from dreadnode_runtime.data.reading import read_conversation, read_question
from dreadnode_runtime.data.rows import read_rows, usable
from dreadnode_runtime.errors import JobFailed


def survey(path: Path, most: int) -> list[str]:
    """Read the first MOST rows of the JSONL file at PATH, and return what a person should know.

    Raises:
        JobFailed: Not one of them can be used by any kind of job.
    """
    supervised, prompts, text = Counts(), Counts(), Counts()
    for row, value in read_rows(path):
        if row > most:
            break
        _count(supervised, row, value, _supervised)
        _count(prompts, row, value, lambda each: read_question(each)[0])
        if not supervised.usable:
            _count(text, row, value, lambda each: read_document(each, rendered=True))
    if supervised.usable:
        return _bounded(supervised, most)
    if text.usable and text.usable >= prompts.usable:
        return [
            "These rows hold text, and no conversations: train with `format` `text` or `rendered`",
            *_bounded(text, most),
        ]
    if prompts.usable:
        note = (
            f"These rows hold prompts without an answer to learn ({_reason(supervised)}): "
            "use them in reinforcement learning, not in supervised training"
        )
        return [note, *_bounded(prompts, most)]
    supervised.refuse_if_unusable(0, nothing="None of the {rows} rows can be trained on")
    return []


def _supervised(row: Row) -> Conversation:
    conversation = read_conversation(row)
    # The most lenient choice: which messages are trained is the job's to say.
    trained_messages(conversation, "last_assistant_message")
    return conversation


def _count(
    counts: Counts,
    row: int,
    value: Row | Unusable,
    read: Callable[[Row], Conversation | Document],
) -> None:
    counts.rows += 1
    try:
        parsed = read(usable(value))
    except Unusable as unusable:
        counts.drop(row, str(unusable))
        return
    counts.usable += 1
    counts.read(parsed)


def _reason(counts: Counts) -> str:
    return max(counts.dropped, key=lambda reason: counts.dropped[reason])


def _bounded(counts: Counts, most: int) -> list[str]:
    """Return the warnings of COUNTS, saying so where only the first rows were read."""
    lines = counts.warnings()
    if lines and counts.rows == most:
        return [f"of the first {most} rows: {line}" for line in lines]
    return lines


def survey_or_refusal(path: Path, most: int) -> dict[str, object]:
    """Return `ok` with notes, or not `ok` with one sentence."""
    try:
        return {"ok": True, "notes": survey(path, most)}
    except (JobFailed, ValueError) as refusal:
        return {"ok": False, "error": str(refusal)}
