"""Anthropic's protocol: messages, streamed and not, and the count of their tokens."""

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dreadnode_api.errors import ApiError
from dreadnode_api.http import protocol_errors
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.serving.anthropic_schemas import Conversation, MessageRequest
from dreadnode_api.serving.requests import generation, tool_call
from dreadnode_api.serving.service import Lines, MemberModels

router = APIRouter(
    prefix="/v1/messages", tags=["Serving"], responses=protocol_errors.ANTHROPIC_ERRORS
)
STREAMED = {
    "reasoning": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking"),
    "content": ({"type": "text", "text": ""}, "text"),
}
"""The parts of a message that are streamed: how their block starts, and its field."""


@router.post("", response_model=None)
async def create_message(asked: MessageRequest, models: MemberModels, request: Request) -> Response:
    """Sample the next message of a conversation, as `POST /v1/chat/completions` does."""
    wanted = generation(
        **_conversation(asked),
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=asked.stop_sequences,
        stream=bool(asked.stream),
    )
    target = await models.find(asked.model)
    name = f"msg_{secrets.token_hex(12)}"
    if not asked.stream:
        (found,) = await while_connected(request, models.results(target, [wanted]))
        return JSONResponse(_message(name, asked.model, found))
    lines = await models.opened(target, wanted)
    return StreamingResponse(
        _body(name, asked.model, lines),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache"},
    )


@router.post("/count_tokens")
async def count_message_tokens(asked: Conversation, models: MemberModels) -> dict[str, int]:
    """Count the tokens of a conversation, as the model would be sent it."""
    target = await models.find(asked.model)
    wanted = generation(**_conversation(asked), only_count=True)
    (found,) = await models.results(target, [wanted])
    return {"input_tokens": found["usage"]["prompt_tokens"]}


def _conversation(asked: Conversation) -> dict[str, Any]:
    return {
        "messages": asked.messages,
        "system": asked.system,
        "tools": asked.declared_tools or None,
    }


def _message(name: str, model: str, result: Mapping[str, Any]) -> dict[str, Any]:
    (choice,) = result["choices"]
    return {
        **_empty(name, model, result["usage"]),
        "content": [block for block, _ in _blocks(choice["message"])],
        **_stop(choice),
        "usage": _usage(result["usage"]),
    }


def _empty(name: str, model: str, usage: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage) if usage else {"input_tokens": 0, "output_tokens": 0},
    }


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    cached = usage["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage["completion_tokens"],
    }


def _stop(choice: Mapping[str, Any]) -> dict[str, Any]:
    text = choice.get("stop_sequence")
    if choice["message"]["tool_calls"]:
        reason, text = "tool_use", None
    elif choice["finish_reason"] == "length":
        reason = "max_tokens"
    else:
        reason = "end_turn" if text is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": text}


def _blocks(message: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each block of MESSAGE, and what a stream sends as its one delta."""
    if text := message["reasoning"]:
        delta = {"type": "thinking_delta", "thinking": text}
        yield {"type": "thinking", "thinking": text, "signature": ""}, delta
    if text := message["content"]:
        yield {"type": "text", "text": text}, {"type": "text_delta", "text": text}
    for number, call in enumerate(message["tool_calls"]):
        name_id, name, arguments = tool_call(call, number)
        block = {"type": "tool_use", "id": name_id, "name": name, "input": _object(arguments)}
        yield block, {"type": "input_json_delta", "partial_json": arguments}


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {"arguments": arguments}


async def _body(name: str, model: str, lines: Lines) -> AsyncIterator[str]:
    try:
        async with aclosing(lines), aclosing(_events(name, model, lines)) as events:
            async for event in events:
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    except ApiError as error:
        yield f"event: error\ndata: {json.dumps(protocol_errors.anthropic(error))}\n\n"


async def _events(name: str, model: str, lines: Lines) -> AsyncGenerator[Any, None]:
    yield {"type": "message_start", "message": _empty(name, model, None)}
    open_kind, index = "", -1
    async for line in lines:
        for kind, text in line.get("part", {}).items():
            if kind not in STREAMED:
                continue
            block, field = STREAMED[kind]
            if kind != open_kind:
                if open_kind:
                    yield {"type": "content_block_stop", "index": index}
                open_kind, index = kind, index + 1
                yield {"type": "content_block_start", "index": index, "content_block": block}
            delta = {"type": f"{field}_delta", field: text}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if "result" not in line:
            continue
        if open_kind:
            yield {"type": "content_block_stop", "index": index}
        (choice,) = line["result"]["choices"]
        for block, delta in _blocks(choice["message"]):
            if block["type"] != "tool_use":
                continue
            index += 1
            start = {**block, "input": {}}
            yield {"type": "content_block_start", "index": index, "content_block": start}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        usage = _usage(line["result"]["usage"])
        yield {"type": "message_delta", "delta": _stop(choice), "usage": usage}
        yield {"type": "message_stop"}
