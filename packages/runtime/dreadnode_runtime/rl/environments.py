"""Tools that a model may use over several turns, through an interface of two verbs.

An environment begins an episode for each rollout. The episode is given what the model said and
answers with the conversation to go on from, or with nothing when it is over: when the model calls
no tool any more. A person's own environment, `python_v1`, is three functions, run in confined
processes like a reward:

    def tools(): ...                    # [{"name": …, "description": …, "parameters": {…}}]
    def start(row): ...                 # the state of a new episode, anything that JSON can hold
    def call(state, name, arguments):   # what a call does: (the new state, the tool's answer)

Calls of one episode may reach different processes, so all that lasts is the state.
"""

import json
from dataclasses import replace
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from tinker_cookbook.renderers import Message

from dreadnode_runtime.data.dialects.tools import read_tools
from dreadnode_runtime.data.fields import Findings
from dreadnode_runtime.data.normal_form import Conversation, Unusable
from dreadnode_runtime.data.normal_form import Message as NormalMessage
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import plain_message
from dreadnode_runtime.errors import JobFailed, plain
from dreadnode_runtime.user_code.processes import CodeFailed, Pool, must_be_allowed
from dreadnode_runtime.user_code.python_reward import Megabytes, Processes, Seconds, Source

LONGEST_RESULT = 20_000
"""Characters of a tool's answer that the model is shown."""
FUNCTIONS = ("tools", "start", "call")


class Episode(Protocol):
    """One rollout's conversation with its tools.

    Attributes:
        state: What became of the world, for the reward to look at.
    """

    state: Any

    async def respond(self, message: Message) -> Conversation | None:
        """Return the conversation after MESSAGE and its tools' answers, or nothing at the end.

        Raises:
            JobFailed: The environment went wrong.
        """
        ...


class Environment(Protocol):
    """What rollouts take place in."""

    def dressed(self, prompt: Conversation) -> Conversation:
        """Return PROMPT with the tools that can be called in it."""
        ...

    async def begin(self, prompt: Prompt) -> Episode:
        """Begin an episode that starts with PROMPT.

        Raises:
            JobFailed: The environment went wrong.
        """
        ...

    async def close(self) -> None:
        """End what was started."""
        ...


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    timeout_sec: Seconds = 30.0
    memory_mb: Megabytes = 1024
    processes: Processes = 4


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["python_v1"]
    params: _Params


class PythonEnvironment:
    """A person's own environment: the functions `tools`, `start` and `call`."""

    def __init__(self, pool: Pool, tools: list[dict[str, Any]]) -> None:
        self._pool = pool
        self._tools = tools

    def dressed(self, prompt: Conversation) -> Conversation:
        """Return PROMPT with the environment's tools, which take the place of the row's own."""
        return replace(prompt, tools=self._tools)

    async def begin(self, prompt: Prompt) -> "PythonEpisode":
        """Begin an episode in the state that `start` returns for the row."""
        state = await self.call(prompt, "start", dict(prompt.data))
        return PythonEpisode(self, prompt, state)

    async def close(self) -> None:
        """End all processes."""
        await self._pool.close()

    async def call(self, prompt: Prompt, function: str, *arguments: Any) -> Any:
        """Return what FUNCTION of the source returns in an episode that began with PROMPT."""
        try:
            return await self._pool.call(function, *arguments, number=False)
        except CodeFailed as failed:
            raise JobFailed(
                f"The environment's `{function}` failed on {prompt.place}: {plain(failed)}",
                code="environment",
            ) from failed


class PythonEpisode:
    """One conversation in a person's own environment."""

    def __init__(self, environment: PythonEnvironment, prompt: Prompt, state: Any) -> None:
        self._environment = environment
        self._prompt = prompt
        self._said = prompt.said
        self.state = state

    async def respond(self, message: Message) -> Conversation | None:
        """Answer the tool calls in MESSAGE, in order; without any, the episode is over."""
        calls = message.get("tool_calls", [])
        broken = message.get("unparsed_tool_calls", [])
        if not calls and not broken:
            return None
        results = [_result(call.id, call.function.name, await self._called(call)) for call in calls]
        results += [_result(None, "", f"This call cannot be read: {c.error}") for c in broken]
        added = cast("list[NormalMessage]", [plain_message(message), *results])
        self._said = Conversation([*self._said.messages, *added], self._said.tools)
        return self._said

    async def _called(self, call: Any) -> str:
        name = call.function.name
        if name not in [tool["name"] for tool in self._said.tools]:
            return f"There is no tool `{name}`"
        try:
            arguments = json.loads(call.function.arguments)
        except ValueError:
            return f"The arguments of `{name}` are not JSON"
        answer = await self._environment.call(self._prompt, "call", self.state, name, arguments)
        if not isinstance(answer, list) or len(answer) != 2:
            raise JobFailed(
                "The environment's `call` must return the new state and the tool's answer, and did "
                f"not on {self._prompt.place}",
                code="environment",
            )
        self.state, said = answer
        text = said if isinstance(said, str) else json.dumps(said)
        return text if len(text) <= LONGEST_RESULT else text[:LONGEST_RESULT] + " … (cut off)"


async def open_environment(wish: dict[str, Any] | None) -> PythonEnvironment | None:
    """Return the environment that a job's config describes, its source loaded.

    Raises:
        JobFailed: It cannot be used; the sentence says why.
    """
    if wish is None:
        return None
    try:
        params = _Wish.model_validate(wish).params
        must_be_allowed()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise JobFailed(
            f"The environment's `{place}` is wrong: {first['msg']}; it is `python_v1`, with its "
            "`source` in `params`",
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
    )
    try:
        tools = read_tools(await pool.call("tools", number=False), Findings())
        if not tools:
            raise Unusable("it has no tools")  # noqa: TRY301
    except (CodeFailed, Unusable) as failed:
        await pool.close()
        raise JobFailed(
            f"The environment cannot be used: {plain(failed)}", code="environment"
        ) from failed
    return PythonEnvironment(pool, tools)


def _result(call_id: str | None, name: str, content: str) -> dict[str, Any]:
    result = {"role": "tool", "content": content, "name": name}
    return result if call_id is None else {**result, "tool_call_id": call_id}
