"""OpenAI's protocol: models, chat completions and completions, streamed and not."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dreadnode_api.errors import ApiError, Invalid, NotFound
from dreadnode_api.http import protocol_errors
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.serving import openai_responses as shapes
from dreadnode_api.serving.openai_schemas import ChatCompletionRequest, CompletionRequest, Sampling
from dreadnode_api.serving.requests import generation
from dreadnode_api.serving.service import InModels, Lines, MemberModels

router = APIRouter(prefix="/v1", tags=["Serving"], responses=protocol_errors.OPENAI_ERRORS)
AnthropicVersion = Annotated[
    str | None, Header(max_length=40, description="Sent by Anthropic's clients, for their shape")
]
DONE = "data: [DONE]\n\n"
Events = AsyncGenerator[dict[str, Any] | None, None]


@router.get("/models")
async def list_models(
    models: InModels, anthropic_version: AnthropicVersion = None
) -> dict[str, Any]:
    """List the base models of this server's engine, and the newest jobs that have weights."""
    found = await models.listed()
    if anthropic_version is not None:
        data = [_anthropic_model(*each) for each in found]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"data": data, "has_more": False, "first_id": None, "last_id": None, **ends}
    return {"object": "list", "data": [_model(*each) for each in found]}


@router.get("/models/{path:path}")
async def get_model(
    path: Annotated[str, Path(max_length=700, description="Name of the model")],
    models: InModels,
    anthropic_version: AnthropicVersion = None,
) -> dict[str, Any]:
    """Return one model that a request can name."""
    for name, created, owner in await models.listed():
        if name == path:
            shape = _model if anthropic_version is None else _anthropic_model
            return shape(name, created, owner)
    target = await models.find(path)
    if target.opening["checkpoint"] is None:
        raise NotFound(f"There is no model `{path[:200]}`")
    return _model(path, 0, "job")


@router.post("/chat/completions", response_model=None)
async def create_chat_completion(
    asked: ChatCompletionRequest, models: MemberModels, request: Request
) -> Response:
    """Sample the next message of a conversation.

    The job's system prompt is added in front, and the chat format is that of its training. A tool
    call is sent as a whole, and so is a message with tools.
    """
    tools = None if asked.tool_choice == "none" else asked.tools
    wanted = _generation(
        asked,
        messages=asked.messages,
        tools=tools or None,
        max_tokens=asked.most_tokens,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
    )
    target = await models.find(asked.model)
    head = shapes.Head("chat.completion", asked.model, target)
    if not asked.stream:
        found = await while_connected(request, models.results(target, [wanted]))
        choices = [shapes.chat_choice(i, c) for i, c in enumerate(found[0]["choices"])]
        return JSONResponse(head.whole(choices, shapes.usage_of(found)))
    lines = await models.opened(target, wanted)
    return _stream(lines, _chat_events(head, asked, lines))


@router.post("/completions", response_model=None)
async def create_completion(
    asked: CompletionRequest, models: MemberModels, request: Request
) -> Response:
    """Continue prompts as they are, without a chat format."""
    wanted = [
        _generation(asked, prompt=prompt, max_tokens=asked.max_tokens, logprobs=asked.logprobs)
        for prompt in asked.prompts
    ]
    target = await models.find(asked.model)
    head = shapes.Head("text_completion", asked.model, target)
    if not asked.stream:
        found = await while_connected(request, models.results(target, wanted))
        flat = [choice for result in found for choice in result["choices"]]
        choices = [shapes.text_choice(i, choice) for i, choice in enumerate(flat)]
        return JSONResponse(head.whole(choices, shapes.usage_of(found)))
    if len(wanted) > 1:
        raise Invalid("A stream has one prompt; send the others in requests of their own", "prompt")
    lines = await models.opened(target, wanted[0])
    return _stream(lines, _text_events(head, asked, lines))


def _generation(asked: Sampling, **fields: Any) -> dict[str, Any]:
    return generation(
        n=asked.n,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=asked.stops or None,
        stream=bool(asked.stream),
        **fields,
    )


def _stream(lines: Lines, events: Events) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        try:
            async with aclosing(lines), aclosing(events):
                async for event in events:
                    if event is not None:
                        yield f"data: {json.dumps(event)}\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(protocol_errors.openai(error))}\n\n"
        yield DONE

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _chat_events(head: shapes.Head, asked: ChatCompletionRequest, lines: Lines) -> Events:
    for index in range(asked.n or 1):
        delta = {"role": "assistant", "content": ""}
        yield head.chunk(
            [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]
        )
    async for line in lines:
        if "part" in line:
            yield head.chunk([shapes.chat_delta(line["part"])])
            continue
        for index, choice in enumerate(line["result"]["choices"]):
            for end in shapes.chat_end(index, choice):
                yield head.chunk([end])
        yield _last(head, asked, line["result"])


async def _text_events(head: shapes.Head, asked: CompletionRequest, lines: Lines) -> Events:
    async for line in lines:
        if "part" in line:
            part = line["part"]
            choice = {"index": part["index"], "text": part["content"]}
            yield head.chunk([{**choice, "logprobs": None, "finish_reason": None}])
            continue
        for index, choice in enumerate(line["result"]["choices"]):
            yield head.chunk([{**shapes.text_choice(index, choice), "text": ""}])
        yield _last(head, asked, line["result"])


def _last(head: shapes.Head, asked: Sampling, result: dict[str, Any]) -> dict[str, Any] | None:
    options = asked.stream_options
    include = options is not None and options.include_usage
    return head.last(shapes.usage_of([result]), include_usage=include)


def _model(name: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def _anthropic_model(name: str, created: int, owner: str) -> dict[str, Any]:
    when = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": when}
