"""`dn train chat`: talk with what a job has trained, while it trains and after it has ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say
from dreadnode.errors import DreadnodeError, InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.chat import ChatAnswer

HELP = "`/reset` begins a new conversation, Ctrl-D ends it"


def chat(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    message: Annotated[
        str | None, Parameter(help="Say this, show the answer, and end; else read line by line.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        Parameter(help="Name or path, such as `step-000010` or `best`; the newest if not given."),
    ] = None,
    system: Annotated[
        str | None, Parameter(help="A system message, behind the job's own system prompt.")
    ] = None,
    max_tokens: Annotated[
        int, Parameter(help="Tokens of an answer at most.", show_default=True)
    ] = 512,
    temperature: Annotated[
        float, Parameter(help="0 always takes the likeliest token.", show_default=True)
    ] = 0.7,
    top_p: Annotated[
        float,
        Parameter(
            help="Nucleus sampling: sample from the smallest set of tokens with this probability.",
            show_default=True,
        ),
    ] = 1.0,
    seed: Annotated[int | None, Parameter(help="Random seed of sampling.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Talk with a job's weights, written in the chat format that they were trained in.

    Without `--message`, each line of the terminal or of a pipe is one message of one conversation.
    Every answer is computed by the server's engine, or paid for at hosted Tinker.
    """
    how: dict[str, Any] = {
        "checkpoint": checkpoint,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    if message is not None and not message.strip():
        raise InputError("`--message` is empty")
    with common.client() as client:
        talk = Conversation(client, job, system, how, common)
        if message is not None:
            talk.say(message)
        elif sys.stdin.isatty():
            _converse(talk)
        else:
            for line in sys.stdin:
                if line.strip():
                    talk.say(line.strip())


class Conversation:
    """What was said so far, and with whom."""

    def __init__(
        self,
        client: ApiClient,
        job: str,
        system: str | None,
        how: dict[str, Any],
        common: Common,
    ) -> None:
        self._client = client
        self._job = job
        self._how = how
        self._common = common
        self._beginning = [] if system is None else [{"role": "system", "content": system}]
        self._said: list[dict[str, str]] = list(self._beginning)
        self._heard_of: str | None = None

    def say(self, text: str) -> None:
        """Say TEXT, and show the answer; a refusal leaves the conversation as it was."""
        from dreadnode.training.chat import ChatMessage, ChatRequest

        said = [*self._said, {"role": "user", "content": text}]
        messages = [ChatMessage.model_validate(each) for each in said]
        request = ChatRequest(messages=messages, **self._how)
        answer = self._client.chat_with_training_job(self._job, request)
        # A conversation is with one checkpoint, though the job may save others meanwhile.
        self._how["checkpoint"] = answer.checkpoint
        content = answer.message.content
        # An empty answer cannot be part of a request, and the next message would have no partner.
        self._said = [*said, {"role": "assistant", "content": content}] if content else self._said
        self._show(answer)

    def reset(self) -> None:
        """Delete the conversation."""
        self._said = list(self._beginning)

    def _show(self, answer: ChatAnswer) -> None:
        if self._common.json:
            self._common.out.text(answer.model_dump_json())
            sys.stdout.flush()
            return
        if self._heard_of != answer.checkpoint:
            self._heard_of = answer.checkpoint
            say(views.whose(answer))
        if answer.message.reasoning:
            say(*(f"| {line}" for line in _safe(answer.message.reasoning).splitlines()))
        self._common.out.text(_safe(answer.message.content))
        sys.stdout.flush()
        if not answer.message.content:
            say("(the answer is empty and not part of the conversation)")
        if answer.finish_reason == "length":
            say(f"(cut off after {answer.usage.sampled_tokens} tokens; `--max-tokens` allows more)")


def _converse(talk: Conversation) -> None:
    """Read messages from the terminal until it has no more."""
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
            talk.reset()
        elif text:
            try:
                talk.say(text)
            except DreadnodeError as error:
                say(f"error: {error}")


def _safe(text: str) -> str:
    """Return TEXT without control characters: a model may say anything, to a terminal too."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)
