"""Rows to what a model is asked: prompts, each with the answer that is expected, if any.

Rows are read as for supervised training, by `data.reading`. Where a chat ends with the assistant's
message, that message is the expected answer and what stands before it the prompt. Of a trajectory
each message of the assistant is a prompt of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.normal_form import (
    Conversation,
    Row,
    Unusable,
    content_text,
    with_system_prompt,
)
from dreadnode_runtime.data.reading import read_conversation, read_question
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.rows import read_rows, usable
from dreadnode_runtime.errors import JobFailed


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of an RL job.

    Attributes:
        conversation: The messages before the completion.
        row: Number of the dataset's row, from 1.
        expected: The row's expected answer, if it has one.
        reward: The row's own reward, if it has one.
        data: The whole row.
        tokens: The tokens that the model continues.
        dataset: The file of the row, where there are several.
    """

    conversation: Conversation
    row: int
    expected: str | None = None
    reward: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    tokens: Sequence[int] = ()
    dataset: str = ""

    @property
    def place(self) -> str:
        """The row and its file, for a message."""
        return f"row {self.row}" + (f" of {self.dataset}" if self.dataset else "")


def prompt(number: int, row: Row) -> Prompt:
    """Return the prompt of ROW.

    Raises:
        Unusable: The row has no prompt in a known form.
    """
    conversation, expected = read_question(row)
    return Prompt(conversation, number, expected, _reward(row), row)


def turns(number: int, row: Row) -> Iterator[Prompt]:
    """Yield a prompt for each turn of the assistant in the trajectory ROW.

    The assistant's own message is the expected answer. It is worth 1 if the trajectory succeeded or
    does not record success, and 0 if it failed; a `reward` of the row replaces that value. Turns
    that only call tools have no text to compare with and are skipped.

    Raises:
        Unusable: The row is not a conversation, or the assistant has no text in it.
    """
    conversation = read_conversation(row)
    reward = _reward(row)
    if reward is None:
        reward = 0.0 if row.get("success") is False else 1.0
    found = False
    for index, message in enumerate(conversation.messages):
        chosen = conversation.chosen is None or index in conversation.chosen
        if message["role"] != "assistant" or index == 0 or not chosen:
            continue
        if text := content_text(message["content"]):
            found = True
            before = replace(conversation, messages=conversation.messages[:index], chosen=None)
            yield Prompt(before, number, text, reward, row)
    if not found:
        raise Unusable("a trajectory in which the assistant says nothing")


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How rows become prompts.

    Attributes:
        rendering: Renders the prompts.
        max_length: Maximum tokens of prompt and completion together.
        max_new_tokens: Maximum tokens of the completion.
        check: Raises `Unusable` for a prompt whose completions the reward cannot score.
        add_tools: Adds an environment's tools.
        system_prompt: Placed before each conversation.
        strict: Whether one unusable row or unread field refuses the job.
        whole_rows: Whether the reward or the environment gets whole rows with every field.
    """

    rendering: Rendering
    max_length: int
    max_new_tokens: int
    check: Callable[[Prompt], None]
    add_tools: Callable[[Conversation], Conversation] = lambda conversation: conversation
    system_prompt: str | None = None
    strict: bool = False
    whole_rows: bool = False

    def ready(self, found: Prompt, dataset: str) -> Prompt:
        """Return FOUND with the system prompt, the tools and its tokens.

        Raises:
            Unusable: It cannot be rendered, or its completions cannot be scored.
        """
        conversation = self.add_tools(with_system_prompt(found.conversation, self.system_prompt))
        tokens = self.rendering.prompt(conversation)
        if len(tokens) + self.max_new_tokens > self.max_length:
            raise Unusable(
                f"the prompt and {self.max_new_tokens} new tokens do not fit into "
                f"{self.max_length} tokens"
            )
        ready = replace(found, conversation=conversation, tokens=tokens, dataset=dataset)
        self.check(ready)
        return ready


def prepare_prompts(
    path: Path,
    settings: PromptSettings,
    keep: Callable[[Prompt], None],
    *,
    trajectories: bool = False,
    dataset: str = "",
) -> Counts:
    """Hand the rendered prompts of the JSONL file at PATH to KEEP, and count its rows.

    Args:
        path: The file.
        settings: How rows become prompts.
        keep: Takes each prompt.
        trajectories: Whether each turn of the assistant is a prompt.
        dataset: Name of the file in messages, where there are several.

    Raises:
        JobFailed: A line is not JSON, no row is usable, or one is not and the job is strict.
    """
    counts = Counts()
    try:
        for number, value in read_rows(path):
            counts.rows += 1
            try:
                row = usable(value)
                found = turns(number, row) if trajectories else (prompt(number, row),)
                asked = [settings.ready(each, dataset) for each in found]
            except Unusable as unusable:
                counts.drop(number, str(unusable))
                continue
            counts.usable += 1
            counts.tokens += sum(len(each.tokens) for each in asked)
            if not settings.whole_rows:
                counts.read(asked[0].conversation)
            for each in asked:
                keep(each)
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if settings.strict:
        counts.forbid()
    counts.refuse_if_unusable(
        counts.usable, nothing="None of the {rows} rows gives a prompt to train on"
    )
    return counts


def _reward(row: Row) -> float | None:
    """Return the number that ROW pays; a text is none, and true counts as 1."""
    reward = row.get("reward")
    if not isinstance(reward, int | float):
        return None
    if not math.isfinite(reward):
        raise Unusable("its reward is not a finite number")
    return float(reward)
