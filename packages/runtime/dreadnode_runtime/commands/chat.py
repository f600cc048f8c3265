"""Talks with weights: `python -m dreadnode_runtime chat`, one JSON object a line, both ways.

The first line says whose weights (`Opening`), and is answered by what they are rendered with. Each
line after it holds a whole conversation (`Question`) and is answered by what the model says to it:
nothing is remembered between two lines. The end of stdin ends the process.

An answer is `{"ok": true, …}`, or `{"ok": false, "fault": …, "error": …}` with one sentence: the
fault is the `request`'s, or the `engine`'s, and only after the latter another try may help.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from tinker_cookbook.renderers import Message

from dreadnode_runtime.backend.policy import Sampler, Sampling
from dreadnode_runtime.backend.tinker_policy import open_sampler
from dreadnode_runtime.commands.responses import Answer, answer_of, refusal
from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import conversation
from dreadnode_runtime.data.rendering import Rendering, load_rendering, plain_message, text_of
from dreadnode_runtime.errors import RuntimeFault

OpenSampler = Callable[[str], AbstractAsyncContextManager[Sampler]]


class Opening(BaseModel):
    """Whose weights are talked with.

    Attributes:
        model: Catalog id that the job names.
        rehearsal: Whether the stand-in was trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.
        checkpoint: Path of the weights, of either kind.
        context: Tokens that the trained model takes.
        system_prompt: The job's, in front of every conversation.
        renderer: The variant of the chat format that the weights were trained with, if known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    rehearsal: bool
    tokenizer: str
    checkpoint: str
    context: int
    system_prompt: str | None = None
    renderer: str | None = None


class Question(BaseModel):
    """What the model is to go on from, and how its answer is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[dict[str, Any]]
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int
    stop: tuple[str, ...] = ()


class Talk:
    """Answers conversations with the weights of one checkpoint."""

    def __init__(self, opening: Opening, rendering: Rendering, sampler: Sampler) -> None:
        self._opening = opening
        self._rendering = rendering
        self._sampler = sampler

    async def answer(self, question: Question) -> Answer:
        """Return what the model says, or why it says nothing."""
        try:
            said = conversation({"messages": question.messages})
            prompt = self._rendering.prompt(with_system_prompt(said, self._opening.system_prompt))
        except Unusable as unusable:
            return refusal(f"The conversation cannot be written: {unusable}")
        room = self._opening.context - len(prompt)
        if question.max_tokens > room:
            return refusal(
                f"The conversation has {len(prompt)} tokens and the model takes "
                f"{self._opening.context}, so there is no room for an answer of "
                f"{question.max_tokens}; ask for fewer, or begin a new conversation"
            )
        try:
            (drawn,) = await self._sampler.sample(prompt, 1, self._how(question), question.seed)
        except RuntimeFault as fault:
            return answer_of(fault)
        return {
            "ok": True,
            "message": _shown(self._rendering.answer(drawn.tokens.tolist())),
            "finish_reason": "length" if drawn.truncated else "stop",
            "usage": {"prompt_tokens": len(prompt), "sampled_tokens": len(drawn.tokens)},
        }

    def _how(self, question: Question) -> Sampling:
        return Sampling(
            question.max_tokens,
            question.temperature,
            self._rendering.stops(question.stop),
            question.top_p,
        )


async def serve(lines: AsyncIterator[str], tell: Callable[[str], None]) -> None:
    """Answer LINES through TELL until they end."""
    opening = Opening.model_validate_json(await anext(lines))
    try:
        rendering = load_rendering(
            opening.model,
            rehearsal=opening.rehearsal,
            tokenizer=opening.tokenizer,
            renderer=opening.renderer,
        )
        async with open_sampler(opening.checkpoint) as sampler:
            talk = Talk(opening, rendering, sampler)
            chosen = {"format_notes": rendering.chosen} if rendering.chosen else {}
            tell(json.dumps({"ok": True, "renderer": rendering.name, **chosen}))
            async for line in lines:
                tell(json.dumps(await talk.answer(Question.model_validate_json(line))))
    except RuntimeFault as fault:
        tell(json.dumps(answer_of(fault)))


async def stdin_lines() -> AsyncIterator[str]:
    """Yield the lines of stdin, each as soon as it is there."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


def _shown(message: Message) -> dict[str, Any]:
    """Return MESSAGE with its reasoning and its tool calls apart from what it says."""
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    thoughts = [part["thinking"] for part in parts if part["type"] == "thinking"]
    return {
        "role": "assistant",
        "content": text_of(message),
        "reasoning": "\n".join(thoughts) or None,
        "tool_calls": plain_message(message).get("tool_calls", []),
    }
