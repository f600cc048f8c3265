"""Chat with a checkpoint: `python -m dreadnode_runtime chat`, one JSON object per line, both ways.

The first line names the checkpoint (`ChatSetup`); its response names the renderer. Each further
line holds a whole conversation (`ChatRequest`); its response is the model's message. Nothing is
kept between two lines. The end of stdin ends the process.

A response is `{"ok": true, …}`, or `{"ok": false, "fault": …, "error": …}` with one sentence. The
fault is `request` or `engine`; only after `engine` may a retry help.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dreadnode_runtime.backend.policy import Sampler, SamplingParams
from dreadnode_runtime.backend.tinker_policy import open_sampler
from dreadnode_runtime.commands.responses import Response, error_response, refusal
from dreadnode_runtime.data.completions import Reply, read_completion
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.renderers.messages import plain_message, text_of
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.errors import RuntimeFault


class ChatSetup(BaseModel):
    """The checkpoint to chat with.

    Attributes:
        model: Catalog id that the job names.
        rehearsal: Whether the stand-in was trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.
        checkpoint: Path of the weights, of either kind.
        context: Maximum tokens of prompt and completion.
        system_prompt: The job's system prompt, added to every conversation.
        renderer: Variant of the chat format that the weights were trained with, if known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    rehearsal: bool
    tokenizer: str
    checkpoint: str
    context: int
    system_prompt: str | None = None
    renderer: str | None = None


class ChatRequest(BaseModel):
    """A conversation that the model continues, with sampling settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[dict[str, Any]]
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int
    stop: tuple[str, ...] = ()


class ChatSession:
    """Continues conversations with the weights of one checkpoint."""

    def __init__(self, setup: ChatSetup, rendering: Rendering, sampler: Sampler) -> None:
        self._setup = setup
        self._rendering = rendering
        self._sampler = sampler

    async def respond(self, request: ChatRequest) -> Response:
        """Return the model's message, or an error response."""
        try:
            messages = read_conversation({"messages": request.messages})
            prompt = self._rendering.prompt(with_system_prompt(messages, self._setup.system_prompt))
        except Unusable as unusable:
            return refusal(f"The conversation cannot be rendered: {unusable}")
        context = self._setup.context
        if request.max_tokens > context - len(prompt):
            return refusal(
                f"The conversation has {len(prompt)} tokens and the model's context is {context}, "
                f"too short for a completion of {request.max_tokens} tokens; ask for fewer, or "
                "start a new conversation"
            )
        try:
            (sampled,) = await self._sampler.sample(
                prompt, 1, self._sampling_params(request), request.seed
            )
        except RuntimeFault as fault:
            return error_response(fault)
        reply = read_completion(
            self._rendering,
            prompt,
            sampled.tokens.tolist(),
            stop=request.stop,
            truncated=sampled.truncated,
        )
        return {
            "ok": True,
            "message": _message(reply),
            "finish_reason": "length" if sampled.truncated else "stop",
            "usage": {"prompt_tokens": len(prompt), "sampled_tokens": len(sampled.tokens)},
        }

    def _sampling_params(self, request: ChatRequest) -> SamplingParams:
        return SamplingParams(
            request.max_tokens,
            request.temperature,
            self._rendering.stops(request.stop),
            request.top_p,
        )


async def serve(lines: AsyncIterator[str], emit: Callable[[str], None]) -> None:
    """Respond to each of LINES through EMIT until they end."""
    setup = ChatSetup.model_validate_json(await anext(lines))
    try:
        rendering = load_rendering(
            setup.model,
            rehearsal=setup.rehearsal,
            tokenizer=setup.tokenizer,
            renderer=setup.renderer,
        )
        async with open_sampler(setup.checkpoint) as sampler:
            session = ChatSession(setup, rendering, sampler)
            notes = {"format_notes": rendering.chosen} if rendering.chosen else {}
            emit(json.dumps({"ok": True, "renderer": rendering.name, **notes}))
            async for line in lines:
                emit(json.dumps(await session.respond(ChatRequest.model_validate_json(line))))
    except RuntimeFault as fault:
        emit(json.dumps(error_response(fault)))


async def stdin_lines() -> AsyncIterator[str]:
    """Yield the lines of stdin as they arrive."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


def _message(reply: Reply) -> dict[str, Any]:
    """Return REPLY's message with its text, its reasoning and its tool calls apart."""
    message = reply.message
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    reasoning = [part["thinking"] for part in parts if part["type"] == "thinking"]
    return {
        "role": "assistant",
        # Reasoning that was cut off is shown as text: there is nothing else to show.
        "content": text_of(message) if reply.answer is None else reply.answer,
        "reasoning": "\n".join(reasoning) or None,
        "tool_calls": plain_message(message).get("tool_calls", []),
    }
