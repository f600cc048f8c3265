"""Streams of samples: tokens are sent while they are sampled. An addition to Tinker's protocol.

A stream is an ordinary sampling request in a session of its own, so it shares the batch with all
other requests and samples the same tokens for the same seed. The session ends with the stream: a
client that disconnects frees its rows at the next token.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tinker.proto import tinker_public_pb2 as pb

from dreadnode_engine.errors import Refused
from dreadnode_engine.scheduling.sample_queue import SampleQueue
from dreadnode_engine.service import results, sampling, sessions
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state.records import Request

WEIGHTS = ("base_model", "model_path")
"""The fields that name the weights; the others are those of a sampling request."""
OWN = ("sampling_session_id", "seq_id")


@dataclass(frozen=True)
class Stream:
    """One sampling request whose tokens are sent as they come.

    Attributes:
        who: whose request it is.
        session: id of the session that was created for it.
        queue: where it waits.
    """

    engine: Engine
    who: Principal
    session: str
    request: Request
    queue: SampleQueue

    async def parts(self) -> AsyncIterator[dict[str, Any]]:
        """Yield new tokens as `{"index", "tokens"}`, and the result or an `error` at the end."""
        sent: list[int] = []
        name, context = self.request.id, self.engine.context
        hold_seconds = self.engine.settings.hold_seconds
        # One event for both: two would cost a stream two tasks for every token.
        wake = context.futures.add(name)
        context.progress.add(name, wake)
        try:
            # A request that ended before this line wakes nobody, so it is read first.
            found, polled_at = await self._poll(), time.monotonic()
            while found.state == "queued":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(hold_seconds):
                        await wake.wait()
                wake.clear()
                sampled = self.queue.sampled(name)
                for index, tokens in enumerate(sampled):
                    if index == len(sent):
                        sent.append(0)
                    if new := tokens[sent[index] :]:
                        sent[index] += len(new)
                        yield {"index": index, "tokens": new}
                # A request that has ended is not in the queue any more.
                if not sampled or time.monotonic() - polled_at > hold_seconds:
                    found, polled_at = await self._poll(), time.monotonic()
        finally:
            context.progress.remove(name, wake)
            context.futures.remove(name, wake)
        yield _result(found)

    async def _poll(self) -> Request:
        """Return the request, and show that its client is there."""
        sessions.heartbeat(self.engine, self.who, self.session)
        return await results.poll(self.engine, self.who, self.request.id)

    async def close(self) -> None:
        """Drop the request if it is not done, and finish its session."""
        await results.cancel(self.engine, self.who, self.request.id)
        await sessions.finish_session(self.engine, self.who, self.session)


async def open_stream(engine: Engine, who: Principal, fields: dict[str, Any]) -> Stream:
    """Accept a sampling request whose FIELDS also name its weights.

    Raises:
        Refused: The request is invalid, or a field belongs to a sampling session.
    """
    if unknown := [name for name in OWN if name in fields]:
        raise Refused(f"Leave out `{unknown[0]}`: a stream has a sampling session of its own")
    session = await sessions.create_session(engine, who, b'{"tags": [], "sdk_version": ""}', None)
    try:
        weights = {name: fields.pop(name) for name in WEIGHTS if name in fields}
        opened = {"session_id": session.id, "sampling_session_seq_id": 0, **weights}
        sampler = await sampling.create_sampler(engine, who, json.dumps(opened).encode())
        sampled = {**fields, "sampling_session_id": sampler.id, "seq_id": 0}
        request, _ = await sampling.sample(engine, who, json.dumps(sampled).encode())
    except BaseException:
        await asyncio.shield(sessions.finish_session(engine, who, session.id))
        raise
    return Stream(engine, who, session.id, request, engine.sample_queue(sampler))


def _result(request: Request) -> dict[str, Any]:
    """Return the last line of a stream: the whole result, or why there is none."""
    if request.state != "done" or request.result is None:
        problem = json.loads(request.result or b"{}")
        return {
            "error": problem.get("error", "The request was dropped"),
            "category": problem.get("category", "server"),
        }
    response = pb.SampleResponse.FromString(request.result)
    return {
        "sequences": [_sequence(each) for each in response.sequences],
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens,
    }


def _sequence(sampled: pb.SampledSequence) -> dict[str, Any]:
    top = sampled.topk_sampled_logprobs
    return {
        "stop_reason": "stop" if sampled.stop_reason == pb.STOP_REASON_STOP else "length",
        "tokens": np.frombuffer(sampled.tokens, "<i4").tolist(),
        "logprobs": np.frombuffer(sampled.logprobs, "<f4").tolist(),
        "topk_tokens": np.frombuffer(top.token_ids, "<i4").reshape(-1, top.k or 1).tolist(),
        "topk_logprobs": np.frombuffer(top.logprobs, "<f4").reshape(-1, top.k or 1).tolist(),
    }
