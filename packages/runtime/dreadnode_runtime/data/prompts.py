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
from dreadnode_runtime.data.reading import conversation, encodable, question
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.rows import read_rows
from dreadnode_runtime.errors import JobFailed


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to ask.

    Attributes:
        said: What stands before the answer.
        row: Number of the dataset's row, from 1.
        expected: The answer that the row knows, if any.
        reward: What the row itself pays, if it says.
        data: The whole row.
        tokens: What the model continues.
        dataset: Which file it is of, where there are several.
    """

    said: Conversation
    row: int
    expected: str | None = None
    reward: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    tokens: Sequence[int] = ()
    dataset: str = ""

    @property
    def place(self) -> str:
        """Where it stands, for a message."""
        return f"row {self.row}" + (f" of {self.dataset}" if self.dataset else "")


def prompt(number: int, row: Row) -> Prompt:
    """Return what ROW asks.

    Raises:
        Unusable: It asks nothing that is understood.
    """
    said, expected = question(row)
    return Prompt(said, number, expected, _reward(row), row)


def turns(number: int, row: Row) -> Iterator[Prompt]:
    """Yield a prompt for each turn of the assistant in the trajectory ROW.

    What the assistant said is expected, and pays 1 where the trajectory succeeded or does not say
    whether it did, and 0 where it failed; a `reward` of the row goes before that. Turns that only
    call tools say nothing to be compared with, and are passed over.

    Raises:
        Unusable: It is no conversation, or the assistant says nothing in it.
    """
    said = conversation(row)
    reward = _reward(row)
    if reward is None:
        reward = 0.0 if row.get("success") is False else 1.0
    found = False
    for index, message in enumerate(said.messages):
        chosen = said.chosen is None or index in said.chosen
        if message["role"] != "assistant" or index == 0 or not chosen:
            continue
        if text := content_text(message["content"]):
            found = True
            before = replace(said, messages=said.messages[:index], chosen=None)
            yield Prompt(before, number, text, reward, row)
    if not found:
        raise Unusable("a trajectory in which the assistant says nothing")


@dataclass(frozen=True, slots=True)
class Asking:
    """How rows become prompts.

    Attributes:
        rendering: Writes them.
        max_length: Tokens of prompt and answer together.
        max_new_tokens: Tokens of the answer.
        judge: Raises `Unusable` for a prompt whose answers the reward could not judge.
        dress: Adds an environment's tools.
        system_prompt: Goes in front.
        strict: Whether one unusable row, or a field that is not read, refuses the job.
        whole_rows: Whether the reward or the environment is given whole rows, every field of them.
    """

    rendering: Rendering
    max_length: int
    max_new_tokens: int
    judge: Callable[[Prompt], None]
    dress: Callable[[Conversation], Conversation] = lambda said: said
    system_prompt: str | None = None
    strict: bool = False
    whole_rows: bool = False

    def ready(self, found: Prompt, dataset: str) -> Prompt:
        """Return FOUND with everything in front of it, and its tokens.

        Raises:
            Unusable: It cannot be asked, or no answer to it judged.
        """
        said = self.dress(with_system_prompt(found.said, self.system_prompt))
        tokens = self.rendering.prompt(said)
        if len(tokens) + self.max_new_tokens > self.max_length:
            raise Unusable(
                f"the prompt and {self.max_new_tokens} new tokens do not fit into "
                f"{self.max_length} tokens"
            )
        ready = replace(found, said=said, tokens=tokens, dataset=dataset)
        self.judge(ready)
        return ready


def prepare_prompts(
    path: Path, asking: Asking, *, trajectories: bool = False, dataset: str = ""
) -> tuple[list[Prompt], Counts]:
    """Return what the JSONL file at PATH asks, rendered, with a count of what cannot be asked.

    Args:
        path: Of the file.
        asking: How rows become prompts.
        trajectories: Whether each turn of the assistant is a prompt.
        dataset: Name of the file in messages, where there are several.

    Raises:
        JobFailed: A line is not JSON, no prompt is left, or one is left out and STRICT forbids it.
    """
    counts = Counts()
    prompts: list[Prompt] = []
    try:
        for number, row in read_rows(path):
            counts.rows += 1
            try:
                encodable(row)
                found = turns(number, row) if trajectories else (prompt(number, row),)
                asked = [asking.ready(each, dataset) for each in found]
                prompts += asked
                counts.tokens += sum(len(each.tokens) for each in asked)
                if not asking.whole_rows:
                    counts.read(asked[0].said)
                counts.usable += 1
            except Unusable as unusable:
                counts.drop(number, str(unusable))
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if asking.strict:
        counts.forbid()
    counts.refuse_if_unusable(
        len(prompts), nothing="None of the {rows} rows gives a prompt to train on"
    )
    return prompts, counts


def _reward(row: Row) -> float | None:
    """Return the number that ROW pays; a text is none, and true counts as 1."""
    reward = row.get("reward")
    if not isinstance(reward, int | float):
        return None
    if not math.isfinite(reward):
        raise Unusable("its reward is not a finite number")
    return float(reward)
