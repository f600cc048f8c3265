"""The serving process: `python -m dreadnode_runtime serve`, one JSON object per line, both ways.

The first line names the model (`ServedModel`); its response is `{"ok": true, "renderer": …}`. Each
further line is a request (`Generation`) or ends one (`Cancel`). Requests run at the same time, and
nothing is kept between two of them. The end of stdin ends the process.

A line for a request has its `id` and one of these:

- `part`: `{"index", "content"}` or `{"index", "reasoning"}`, only if the request streams;
- `result`: the completions and the usage, the last line;
- `error`, `fault` and `"ok": false`: one sentence, the last line. The fault is `request` or
  `engine`; only after `engine` may a retry help.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable

from pydantic import TypeAdapter

from dreadnode_runtime.backend.streaming import open_streaming_sampler
from dreadnode_runtime.commands.responses import Response, error_response, refusal
from dreadnode_runtime.data.normal_form import Unusable
from dreadnode_runtime.errors import RuntimeFault
from dreadnode_runtime.serving.generation import Generator
from dreadnode_runtime.serving.requests import Cancel, Generation, ServedModel

log = logging.getLogger(__name__)

_LINE: TypeAdapter[Generation | Cancel] = TypeAdapter(Generation | Cancel)


async def serve(lines: AsyncIterator[str], emit: Callable[[str], None]) -> None:
    """Answer the requests in LINES through EMIT until they end."""
    served = ServedModel.model_validate_json(await anext(lines))
    try:
        rendering = served.rendering()
        async with open_streaming_sampler(
            served.checkpoint, served.base_model, streams=served.streams
        ) as sampler:
            emit(json.dumps({"ok": True, "renderer": rendering.name, "notes": [*rendering.chosen]}))
            await _Requests(Generator(served, rendering, sampler), emit).run(lines)
    except RuntimeFault as fault:
        emit(json.dumps(error_response(fault)))


class _Requests:
    """The requests that are under way, each a task."""

    def __init__(self, generator: Generator, emit: Callable[[str], None]) -> None:
        self._generator = generator
        self._emit = emit
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            request = _LINE.validate_json(line)
            if isinstance(request, Cancel):
                if (task := self._tasks.get(request.cancel)) is not None:
                    task.cancel()
                continue
            self._tasks[request.id] = asyncio.create_task(self._answer(request))
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _answer(self, request: Generation) -> None:
        def send(fields: Response) -> None:
            self._emit(json.dumps({"id": request.id, **fields}))

        try:
            result = await self._generator.generate(request, lambda part: send({"part": part}))
        except Unusable as unusable:
            send(refusal(f"The conversation cannot be rendered: {unusable}"))
        except RuntimeFault as fault:
            send(error_response(fault))
        except Exception:
            # Without a line the API would wait for its time limit.
            log.exception("this is a bug of the runtime")
            send(
                refusal("The runtime could not answer because of a bug; its output has a traceback")
            )
        else:
            send({"result": result})
        finally:
            del self._tasks[request.id]


async def stdin_lines() -> AsyncIterator[str]:
    """Yield the lines of stdin as they arrive."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line
