"""Environments: tools that the model can call over several turns.

An environment starts an episode for each rollout. The episode gets the model's message and returns
the conversation that the model continues; it ends when the message has no tool call. A user's own
environment, `python_v1`, consists of three functions, run in confined processes like a reward:

    def tools(): ...                    # [{"name": …, "description": …, "parameters": {…}}]
    def start(row): ...                 # the state of a new episode, anything that JSON can hold
    def call(state, name, arguments):   # returns (the new state, the tool's result)

Calls of one episode can run in different processes, so only the state is kept between them.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from tinker_cookbook.renderers import Message

from dreadnode_runtime.data.dialects.tools import read_tools
from dreadnode_runtime.data.fields import Findings
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.normal_form import Message as NormalMessage
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.renderers.messages import plain_message
from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.user_code.processes import (
    CodeFailed,
    Filename,
    Megabytes,
    Pool,
    Processes,
    Seconds,
    Source,
    check_allowed,
)

MAX_RESULT_LENGTH = 20_000
"""Characters of a tool's result that the model gets."""
FUNCTIONS = ("tools", "start", "call")


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    filename: Filename = "environment.py"
    timeout_sec: Seconds = 30.0
    memory_mb: Megabytes = 1024
    processes: Processes = 4


class _EnvironmentSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["python_v1"]
    params: _Params


@dataclass(frozen=True)
class Environment:
    """A user's own environment: the functions `tools`, `start` and `call`."""

    pool: Pool
    tools: list[dict[str, Any]]

    def with_tools(self, prompt: Conversation) -> Conversation:
        """Return PROMPT with the environment's tools, which replace those of the row."""
        return replace(prompt, tools=self.tools)

    async def start_episode(self, prompt: Prompt) -> "Episode":
        """Start an episode in the state that `start` returns for the row.

        Raises:
            JobFailed: The environment's code failed.
        """
        state = await self.call(prompt, "start", dict(prompt.data))
        return Episode(self, prompt, state)

    async def close(self) -> None:
        """End all processes."""
        await self.pool.close()

    async def call(self, prompt: Prompt, function: str, *arguments: Any) -> Any:
        """Return the result of FUNCTION in an episode that started with PROMPT."""
        try:
            return await self.pool.call(function, *arguments, number=False)
        except CodeFailed as failed:
            raise JobFailed(
                f"The environment's `{function}` failed on {prompt.place}: {plain(failed)}",
                code="environment",
            ) from failed


class Episode:
    """One rollout's conversation with its tools.

    Attributes:
        state: The environment's state, which the reward can read.
    """

    def __init__(self, environment: Environment, prompt: Prompt, state: Any) -> None:
        self._environment = environment
        self._prompt = prompt
        self._conversation = prompt.conversation
        self.state = state

    async def respond(self, message: Message) -> Conversation | None:
        """Run the tool calls in MESSAGE, and return the conversation with their results.

        None is returned at the end of the episode, which is a message without a call.

        Raises:
            JobFailed: The environment's code failed.
        """
        calls = message.get("tool_calls", [])
        unparsed = message.get("unparsed_tool_calls", [])
        if not calls and not unparsed:
            return None
        results = [_result(call.id, call.function.name, await self._run(call)) for call in calls]
        results += [_result(None, "", f"Invalid tool call: {c.error}") for c in unparsed]
        added = cast("list[NormalMessage]", [plain_message(message), *results])
        conversation = self._conversation
        self._conversation = Conversation([*conversation.messages, *added], conversation.tools)
        return self._conversation

    async def _run(self, call: Any) -> str:
        name = call.function.name
        if name not in [tool["name"] for tool in self._conversation.tools]:
            return f"Unknown tool `{name}`"
        try:
            arguments = json.loads(call.function.arguments)
        except ValueError:
            return f"The arguments of `{name}` are not valid JSON"
        result = await self._environment.call(self._prompt, "call", self.state, name, arguments)
        if not isinstance(result, list) or len(result) != 2:
            raise JobFailed(
                "The environment's `call` must return the new state and the tool's result, but did "
                f"not for {self._prompt.place}",
                code="environment",
            )
        self.state, output = result
        text = output if isinstance(output, str) else json.dumps(output)
        return (
            text if len(text) <= MAX_RESULT_LENGTH else text[:MAX_RESULT_LENGTH] + " … (truncated)"
        )


async def open_environment(spec: dict[str, Any] | None) -> Environment | None:
    """Return the environment that a job's config describes, with its source loaded.

    Raises:
        JobFailed: It cannot be used; the message says why.
    """
    if spec is None:
        return None
    try:
        params = _EnvironmentSpec.model_validate(spec).params
        check_allowed()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise JobFailed(
            f"The environment's `{place}` is invalid: {first['msg']}; use "
            "`python_v1` with its `source` in `params`",
            code="environment",
        ) from error
    except ValueError as error:
        raise JobFailed(f"The environment cannot be used: {error}", code="environment") from error
    pool = Pool(
        params.source,
        FUNCTIONS,
        processes=params.processes,
        memory_mb=params.memory_mb,
        seconds=params.timeout_sec,
        filename=params.filename,
    )
    try:
        tools = read_tools(await pool.call("tools", number=False), Findings())
        if not tools:
            raise Unusable("`tools` returns an empty list")  # noqa: TRY301
    except (CodeFailed, Unusable) as failed:
        await pool.close()
        raise JobFailed(
            f"The environment cannot be used: {plain(failed)}", code="environment"
        ) from failed
    return Environment(pool, tools)


def _result(call_id: str | None, name: str, content: str) -> dict[str, Any]:
    result = {"role": "tool", "content": content, "name": name}
    return result if call_id is None else {**result, "tool_call_id": call_id}
