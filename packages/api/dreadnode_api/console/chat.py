"""A chat with the weights of a job, streamed as the model samples."""

from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.console.deps import MemberPage
from dreadnode_api.console.layout import HEADERS
from dreadnode_api.http.deps import ReadSession
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.models.checkpoints import State
from dreadnode_api.serving.job_chat_routes import ChatRequest, streamed_answer
from dreadnode_api.serving.service import models_of

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
async def say(page: MemberPage, job_id: JobId, asked: Annotated[ChatRequest, Body()]) -> Response:
    """Send the next message of the conversation as `POST .../chat` streams it."""
    streamed = asked.model_copy(update={"stream": True})
    models = models_of(page.request, page.caller)
    response = await streamed_answer(page.scope, job_id, streamed, models)
    response.headers.update(HEADERS)
    return response
