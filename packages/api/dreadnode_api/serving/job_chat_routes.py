"""Chat with the weights of a job, while it trains and after it has ended."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field

from dreadnode_api.auth.deps import Member, WorkspaceScope
from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import WeightsInfo, choose_checkpoint
from dreadnode_api.checkpoints.targets import Target, job_target
from dreadnode_api.errors import ERRORS, ApiError
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.error_responses import error_response
from dreadnode_api.http.schemas import Request as RequestBody
from dreadnode_api.http.schemas import Response
from dreadnode_api.jobs import service
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.serving.requests import generation
from dreadnode_api.serving.service import JobModels, Lines, Models
from dreadnode_api.training.rl_schemas import StopText

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)
MAX_TOKENS = 32_768
JSON_LINES = "application/x-ndjson"
PARTS = ("reasoning", "content")
"""The parts of a message that are streamed."""


class ChatMessage(RequestBody):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=500_000)


def _valid_turns(messages: list[ChatMessage]) -> list[ChatMessage]:
    if messages[-1].role != "user":
        raise ValueError(
            "the last message must have the role `user`, because the model responds to it"
        )
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("only the first message may have the role `system`")
    return messages


class ChatRequest(RequestBody):
    """A conversation to which the model adds the next message."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=1000),
        AfterValidator(_valid_turns),
    ]
    checkpoint: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="Name or path of a checkpoint; the newest if omitted",
    )
    max_tokens: int = Field(512, ge=1, le=MAX_TOKENS, description="Tokens of the completion")
    temperature: float = Field(0.7, ge=0, le=10, description="0 always takes the most likely token")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31, description="A random seed if omitted")
    stop: list[StopText] = Field(default=[], max_length=16)
    stream: bool = Field(
        False,
        description="Send JSON lines while the model samples: `weights`, then `reasoning` and "
        "`content`, at the end the whole `answer` or an `error`",
    )


class ChatReply(Response):
    """The message that the model adds."""

    role: Literal["assistant"]
    content: str
    reasoning: str | None = Field(description="Its reasoning, if its chat format separates it")
    tool_calls: list[dict[str, Any]]


class ChatUsage(Response):
    """The tokens that the engine processed."""

    prompt_tokens: int
    sampled_tokens: int


class ChatAnswer(WeightsInfo):
    """The response, and the weights that it comes from."""

    message: ChatReply
    finish_reason: Literal["stop", "length"]
    usage: ChatUsage
    renderer: str | None = Field(None, description="Name of the chat format")
    format_notes: list[str] = Field(
        default=[], description="Why another format than the model's default is used, if one is"
    )


@router.post(
    "/chat",
    response_model=ChatAnswer,
    responses={200: {"content": {JSON_LINES: {}}, "description": "The next message"}},
)
async def chat_with_training_job(
    scope: Member, job_id: JobId, asked: ChatRequest, models: JobModels, request: Request
) -> ChatAnswer | StreamingResponse:
    """Sample the next message of a conversation from a job's weights.

    The job's system prompt is added in front, and the chat format is that of the training. Other
    tools use `POST /v1/chat/completions` with the job's id as the model.
    """
    if asked.stream:
        return await streamed_answer(scope, job_id, asked, models)
    return await while_connected(request, answer(scope, job_id, asked, models))


async def answer(
    scope: WorkspaceScope, job_id: str, asked: ChatRequest, models: Models
) -> ChatAnswer:
    """Return the next message of a conversation.

    Raises:
        ApiError: the workspace has no such job, or its weights cannot be served.
    """
    target = await chat_target(scope, job_id, asked.checkpoint, models)
    (found,) = await models.results(target, [_generation(asked)])
    return _answer(target, found)


async def streamed_answer(
    scope: WorkspaceScope, job_id: str, asked: ChatRequest, models: Models
) -> StreamingResponse:
    """Return the next message of a conversation as JSON lines, sent while the model samples.

    Raises:
        ApiError: as for `answer`, before the first line.
    """
    target = await chat_target(scope, job_id, asked.checkpoint, models)
    lines = await models.opened(target, _generation(asked))
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_streamed(target, lines), media_type=JSON_LINES, headers=headers)


async def _streamed(target: Target, lines: Lines) -> AsyncIterator[str]:
    yield _line(weights=dict(target.weights or {}))
    seen: set[str] = set()
    try:
        async with aclosing(lines):
            async for line in lines:
                if "part" in line:
                    new = line["part"]
                else:
                    whole = _answer(target, line["result"])
                    # An engine that does not stream sends the message with its end.
                    new = whole.message.model_dump(exclude=seen)
                if parts := {name: new[name] for name in PARTS if new.get(name)}:
                    seen |= parts.keys()
                    yield _line(**parts)
                if "result" in line:
                    yield _line(answer=whole.model_dump(mode="json"))
    except ApiError as error:
        yield _line(error=json.loads(bytes(error_response(error).body)))


def _line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def _generation(asked: ChatRequest) -> dict[str, Any]:
    return generation(**asked.model_dump(exclude={"checkpoint"}))


def _answer(target: Target, found: Mapping[str, Any]) -> ChatAnswer:
    (choice,) = found["choices"]
    usage = found["usage"]
    return ChatAnswer.model_validate(
        {
            **choice,
            "renderer": found.get("renderer"),
            "format_notes": found.get("format_notes", []),
            "usage": {
                "prompt_tokens": usage["prompt_tokens"],
                "sampled_tokens": usage["completion_tokens"],
            },
            **(target.weights or {}),
        }
    )


async def chat_target(
    scope: WorkspaceScope, job_id: str, checkpoint: str | None, models: Models
) -> Target:
    """Return the weights of a job that CHECKPOINT names; the newest ones if it is None.

    Raises:
        ApiError: the workspace has no such job, or its weights cannot be served.
    """
    engine = await models.engine.capabilities()
    async with models.database.reading() as session:
        job = await service.get_job(session, scope.workspace_id, job_id)
        saved = await records.job_checkpoints(session, job.id)
    return job_target(scope.caller, engine, job, choose_checkpoint(job, saved, checkpoint))
