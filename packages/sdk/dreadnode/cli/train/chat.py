"""`dn train chat`: talk to the weights of a job, during training and afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say, say_part
from dreadnode.cli.train.jobs import Job
from dreadnode.errors import DreadnodeError, InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.chat import ChatAnswer, ChatRequest
    from dreadnode.training.checkpoints import OfWeights

HELP = "`/reset` starts a new conversation, Ctrl-D ends it"


def chat(
    job: Job,
    /,
    *,
    message: Annotated[
        str | None, Parameter(help="Send this message and exit; else read messages line by line.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        Parameter(help="Name or path, such as `step-000010` or `best`; else the newest."),
    ] = None,
    system: Annotated[
        str | None, Parameter(help="System message, after the job's own system prompt.")
    ] = None,
    max_tokens: Annotated[
        int, Parameter(help="Maximum number of tokens of a reply.", show_default=True)
    ] = 512,
    temperature: Annotated[
        float,
        Parameter(help="Sampling temperature; 0 takes the most likely token.", show_default=True),
    ] = 0.7,
    top_p: Annotated[
        float,
        Parameter(
            help="Sample from the most likely tokens whose probabilities add up to this.",
            show_default=True,
        ),
    ] = 1.0,
    seed: Annotated[int | None, Parameter(help="Random seed of the sampling.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Talk to a job's weights in the chat format that they were trained with.

    Without `--message`, each line of the terminal or of a pipe is one message of one conversation.
    The server's engine computes every reply; on hosted Tinker each one costs money.
    """
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    if message is not None and not message.strip():
        raise InputError("`--message` is empty")
    with common.client() as client:
        job = client.find_training_job(job)
        conversation = Conversation(client, job, system, options, common)
        if checkpoint is None and not common.json:
            _mention_best(client, job)
        if message is not None:
            conversation.send(message)
        elif sys.stdin.isatty():
            _converse(conversation)
        else:
            for line in sys.stdin:
                if line.strip():
                    conversation.send(line.strip())


def _mention_best(client: ApiClient, job_id: str) -> None:
    job = client.get_training_job(job_id)
    if job.better_evaluation:
        say(f"best: {views.best(job)}; `--checkpoint best` talks to those weights")


class Conversation:
    """A conversation with the weights of one job.

    Args:
        client: The client.
        job: The job's id.
        system: A system message.
        options: The other fields of a request.
        common: The flags of the command.
    """

    def __init__(
        self,
        client: ApiClient,
        job: str,
        system: str | None,
        options: dict[str, Any],
        common: Common,
    ) -> None:
        self._client = client
        self._job = job
        self._options = options
        self._common = common
        self._start = [] if system is None else [{"role": "system", "content": system}]
        self._messages: list[dict[str, str]] = list(self._start)
        self._shown_weights: str | None = None
        self._shown_notes = False

    def send(self, text: str) -> None:
        """Send TEXT and show the reply; after an error the conversation is unchanged."""
        from dreadnode.training.chat import ChatMessage, ChatRequest

        asked = [*self._messages, {"role": "user", "content": text}]
        messages = [ChatMessage.model_validate(each) for each in asked]
        request = ChatRequest(messages=messages, **self._options)
        if self._common.json:
            answer = self._client.chat_with_training_job(self._job, request)
            self._common.out.text(answer.model_dump_json())
            sys.stdout.flush()
        else:
            answer = self._streamed(request)
            self._show_end(answer)
        # A conversation stays with one checkpoint, even if the job saves newer ones.
        self._options["checkpoint"] = answer.checkpoint
        reply = answer.message.content
        # A request cannot contain an empty reply, so the unanswered message is dropped too.
        if reply:
            self._messages = [*asked, {"role": "assistant", "content": reply}]

    def reset(self) -> None:
        """Start a new conversation."""
        self._messages = list(self._start)

    def _streamed(self, request: ChatRequest) -> ChatAnswer:
        """Show the reply while the model samples it, and return the whole answer."""
        out, shown = self._common.out, ""
        try:
            for line in self._client.stream_chat_with_training_job(self._job, request):
                if line.weights is not None:
                    self._show_weights(line.weights)
                if line.reasoning:
                    say_part(line.reasoning if shown else f"| {line.reasoning}", "| ")
                    shown = "reasoning"
                if line.content:
                    if shown == "reasoning":
                        say("")
                    out.part(line.content)
                    shown = "content"
                if line.answer is not None:
                    return line.answer
        finally:
            if shown == "content":
                out.text("")
            elif shown:
                say("")
        raise AssertionError("the last line has the answer")

    def _show_weights(self, weights: OfWeights) -> None:
        if self._shown_weights != weights.checkpoint:
            self._shown_weights = weights.checkpoint
            say(views.weights(weights))

    def _show_end(self, answer: ChatAnswer) -> None:
        if not self._shown_notes:
            self._shown_notes = True
            say(*answer.format_notes)
        if not answer.message.content:
            say("(the reply is empty and not part of the conversation)")
        if answer.finish_reason == "length":
            say(f"(cut off after {answer.usage.sampled_tokens} tokens; raise `--max-tokens`)")


def _converse(conversation: Conversation) -> None:
    """Read messages from the terminal until its end."""
    say(HELP)
    while True:
        try:
            sys.stderr.write("> ")
            sys.stderr.flush()
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            say("")
            return
        if not line:
            say("")
            return
        text = line.strip()
        if text == "/reset":
            conversation.reset()
        elif text:
            try:
                conversation.send(text)
            except DreadnodeError as error:
                say(f"error: {error}")
