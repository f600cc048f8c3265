"""Talking with a job's weights, while it trains and after it has ended."""

import secrets
from typing import Annotated, Any, Literal

from app.training.catalog import get_training_model
from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field

from dreadnode_api.auth.deps import Member
from dreadnode_api.chat.session import Partner
from dreadnode_api.chat.session_pool import Talks
from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import OfWeights, chosen, whose
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ERRORS, Conflict
from dreadnode_api.http.deps import InDatabase, InEngine
from dreadnode_api.http.schemas import Request as RequestBody
from dreadnode_api.http.schemas import Response
from dreadnode_api.models.jobs import Job
from dreadnode_api.runtime_processes.environment import refused
from dreadnode_api.training import service
from dreadnode_api.training.deps import JobId
from dreadnode_api.training.rl_schemas import StopText

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)
MAX_TOKENS = 32_768


class ChatMessage(RequestBody):
    """What somebody has said."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=500_000)


def _ends_with_a_wish(messages: list[ChatMessage]) -> list[ChatMessage]:
    if messages[-1].role != "user":
        raise ValueError("the last message must be the `user`'s: it is what the model answers")
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("a `system` message may only be the first")
    return messages


class ChatRequest(RequestBody):
    """A conversation, whose next message the model is to give."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=1000),
        AfterValidator(_ends_with_a_wish),
    ]
    checkpoint: str | None = Field(
        None, min_length=1, max_length=500, description="Name or path; the newest if left out"
    )
    max_tokens: int = Field(512, ge=1, le=MAX_TOKENS, description="Tokens of the answer")
    temperature: float = Field(0.7, ge=0, le=10, description="0 always takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31, description="Chance decides if left out")
    stop: list[StopText] = Field(default=[], max_length=16)


class ChatReply(Response):
    """What the model said, the system's and the user's part left out."""

    role: Literal["assistant"]
    content: str
    reasoning: str | None = Field(description="What it thought before, where its format shows that")
    tool_calls: list[dict[str, Any]]


class ChatUsage(Response):
    """What the engine worked on."""

    prompt_tokens: int
    sampled_tokens: int


class ChatAnswer(OfWeights):
    """An answer, and whose it is."""

    message: ChatReply
    finish_reason: Literal["stop", "length"]
    usage: ChatUsage


def talks(request: Request) -> Talks:
    """Return what keeps conversation partners."""
    found: Talks = request.app.state.talks
    return found


@router.post("/chat")
async def chat_with_training_job(
    place: Member,
    job_id: JobId,
    request: ChatRequest,
    database: InDatabase,
    engine: InEngine,
    partners: Annotated[Talks, Depends(talks)],
) -> ChatAnswer:
    """Sample the next message of a conversation from a job's weights.

    Its system prompt goes in front, and its chat format is that of the training.
    """
    async with database.reading() as session:
        job = await service.get_job(session, place.workspace_id, job_id)
        weights = chosen(job, await records.of_job(session, job.id), request.checkpoint)
    partner = await _partner(job, weights.path, engine)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    question = request.model_dump(exclude={"checkpoint"}) | {"seed": seed}
    answer = await partners.ask(partner, question)
    if not answer["ok"]:
        raise refused(answer)
    return ChatAnswer.model_validate({**answer, **whose(job, weights)})


async def _partner(job: Job, checkpoint: str, engine: EngineClient) -> Partner:
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
    return Partner(job.lineage, opening)
