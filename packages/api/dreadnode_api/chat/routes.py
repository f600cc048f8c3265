"""Chat with the weights of a job, while it trains and after it has ended."""

import secrets
from typing import Annotated, Any, Literal

from app.training.catalog import get_training_model
from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field

from dreadnode_api.auth.deps import Member
from dreadnode_api.chat.session import ChatTarget
from dreadnode_api.chat.session_pool import ChatSessionPool
from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import WeightsInfo, choose_checkpoint, weights_info
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ERRORS, Conflict
from dreadnode_api.http.deps import InDatabase, InEngine
from dreadnode_api.http.schemas import Request as RequestBody
from dreadnode_api.http.schemas import Response
from dreadnode_api.jobs import service
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.models.jobs import Job
from dreadnode_api.runtime_processes.environment import refusal
from dreadnode_api.training.rl_schemas import StopText

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)
MAX_TOKENS = 32_768


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


def chat_sessions(request: Request) -> ChatSessionPool:
    """Return the pool of chat sessions."""
    found: ChatSessionPool = request.app.state.chat_sessions
    return found


@router.post("/chat")
async def chat_with_training_job(
    scope: Member,
    job_id: JobId,
    request: ChatRequest,
    database: InDatabase,
    engine: InEngine,
    sessions: Annotated[ChatSessionPool, Depends(chat_sessions)],
) -> ChatAnswer:
    """Sample the next message of a conversation from a job's weights.

    The job's system prompt is added in front, and the chat format is that of the training.
    """
    async with database.reading() as session:
        job = await service.get_job(session, scope.workspace_id, job_id)
        weights = choose_checkpoint(
            job, await records.job_checkpoints(session, job.id), request.checkpoint
        )
    target = await _target(job, weights.path, engine)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    question = request.model_dump(exclude={"checkpoint"}) | {"seed": seed}
    response = await sessions.ask(target, question)
    if not response["ok"]:
        raise refusal(response)
    return ChatAnswer.model_validate({**response, **weights_info(job, weights)})


async def _target(job: Job, checkpoint: str, engine: EngineClient) -> ChatTarget:
    served = (await engine.capabilities()).models.get(job.trained_model)
    model = get_training_model(job.model)
    if served is None or served.sampleable is False or model is None:
        raise Conflict(
            f"This server's engine cannot sample from `{job.trained_model}` any more; start it "
            "with that model's weights"
        )
    limits = [model.context_length, served.max_context_length]
    opening = {
        "model": job.model,
        "rehearsal": job.rehearsal,
        "tokenizer": served.tokenizer_id or model.tokenizer_id,
        "checkpoint": checkpoint,
        "context": min(limit for limit in limits if limit is not None),
        "system_prompt": job.config.get("system_prompt"),
        "renderer": (job.preflight or {}).get("renderer"),
    }
    return ChatTarget(job.org_id, checkpoint, job.lineage, opening)
