"""A chat with the weights of a job, streamed as the model samples."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body
from starlette.responses import Response, StreamingResponse

from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.console.deps import MemberPage
from dreadnode_api.console.layout import HEADERS
from dreadnode_api.errors import ApiError, plain, printable
from dreadnode_api.http.deps import InDatabase, ReadSession
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.models.checkpoints import State
from dreadnode_api.serving.job_chat_routes import ChatRequest, chat_target
from dreadnode_api.serving.requests import generation
from dreadnode_api.serving.service import Lines, Models

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}/chat")


@router.get("")
async def chat(page: MemberPage, job_id: JobId, session: ReadSession) -> Response:
    """Show the chat, with the checkpoints to choose from."""
    job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    saved = await records.job_checkpoints(session, job.id)
    names = dict.fromkeys(checkpoint_name(c) for c in reversed(saved) if c.state == State.READY)
    return page.render(
        "chat.html", job=job, checkpoints=[("", "newest"), *((each, each) for each in names)]
    )


@router.post("")
async def say(
    page: MemberPage, job_id: JobId, asked: Annotated[ChatRequest, Body()], database: InDatabase
) -> Response:
    """Send the next message of the conversation, a JSON line for each part of it.

    A line has `content`, `reasoning`, the `end` of the message, or an `error`.
    """
    state = page.request.app.state
    models = Models(page.caller, database, state.engine, state.serving)
    target = await chat_target(page.scope, job_id, asked.checkpoint, models)
    wanted = generation(**asked.model_dump(exclude={"checkpoint"}), stream=True)
    lines = await models.opened(target, wanted)
    return StreamingResponse(_lines(lines), media_type="application/x-ndjson", headers=HEADERS)


async def _lines(lines: Lines) -> AsyncIterator[str]:
    """Yield the parts that were streamed, and what the whole message has besides."""
    seen = {"content": "", "reasoning": ""}
    try:
        async with aclosing(lines):
            async for line in lines:
                for each in _parts(line, seen):
                    yield json.dumps(each, ensure_ascii=False) + "\n"
    except ApiError as error:
        yield json.dumps({"error": printable(plain(error.detail))}) + "\n"


def _parts(line: dict[str, Any], seen: dict[str, str]) -> list[dict[str, Any]]:
    if "part" in line:
        found = {name: line["part"][name] for name in seen if line["part"].get(name)}
        for name, text in found.items():
            seen[name] += text
        return [found] if found else []
    (choice,) = line["result"]["choices"]
    message, usage = choice["message"], line["result"]["usage"]
    # An engine that does not stream sends the message with its end.
    whole = {name: message[name] for name in seen if message[name] and not seen[name]}
    end = {"tokens": usage["completion_tokens"], "reason": choice["finish_reason"]}
    calls = json.dumps(message["tool_calls"], ensure_ascii=False) if message["tool_calls"] else ""
    return [whole, {"end": end | ({"calls": calls} if calls else {})}]
