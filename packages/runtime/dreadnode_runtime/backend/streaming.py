"""Sampling that reports tokens while they are sampled, where the engine streams them.

Tinker's protocol returns whole samples. Our engine adds `sample_stream`, which samples the same
tokens and sends them as they come.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np

from dreadnode_runtime.backend.policy import Sampled, Sampler, SamplingParams
from dreadnode_runtime.backend.tinker_policy import open_sampler
from dreadnode_runtime.errors import JobFailed, TryAgain, plain

OnTokens = Callable[[int, list[int]], None]
"""Takes the number of a completion and all its tokens so far."""
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class StreamingSampler:
    """Samples completions from fixed weights, and reports tokens on the way where that is possible.

    Attributes:
        sampler: Samples whole completions through the official SDK.
        http: A client of our engine; None where the engine does not stream from the weights.
        weights: `{"model_path": …}` or `{"base_model": …}`.
    """

    sampler: Sampler
    http: httpx2.AsyncClient | None
    weights: dict[str, str]

    async def sample_streamed(
        self,
        prompt: Sequence[int],
        count: int,
        sampling: SamplingParams,
        seed: int,
        on_tokens: OnTokens | None,
    ) -> list[Sampled]:
        """Return COUNT completions of PROMPT, and call ON_TOKENS while they grow, if possible.

        Raises:
            JobFailed: The engine refuses the request.
            TryAgain: The engine cannot do it now.
        """
        if on_tokens is None or self.http is None:
            return await self.sampler.sample(prompt, count, sampling, seed)
        body = {
            **self.weights,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
            "num_samples": count,
            "topk_sample_logprobs": sampling.topk,
            "sampling_params": {
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "stop": list(sampling.stop),
                "seed": seed,
            },
        }
        tokens: list[list[int]] = [[] for _ in range(count)]
        try:
            async with self.http.stream("POST", "sample_stream", json=body) as response:
                if response.is_error:
                    raise _refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    part = json.loads(line)
                    if "index" not in part:
                        return _result(part)
                    tokens[part["index"]] += part["tokens"]
                    on_tokens(part["index"], tokens[part["index"]])
        except (httpx2.HTTPError, ValueError) as error:
            raise TryAgain(f"The engine's stream broke: {plain(error)}") from error
        raise TryAgain("The engine's stream ended before the completion did")


@asynccontextmanager
async def open_streaming_sampler(
    checkpoint: str | None, base_model: str, *, streams: bool
) -> AsyncIterator[StreamingSampler]:
    """Open a sampler of CHECKPOINT, or of BASE_MODEL if there is none.

    Args:
        checkpoint: Path of the weights, of either kind.
        base_model: Name of the base model on the engine.
        streams: Whether the engine has `sample_stream`.

    Raises:
        JobFailed: The engine does not have the weights, or this key may not read them.
        TryAgain: The engine cannot be reached.
    """
    weights = {"model_path": checkpoint} if checkpoint else {"base_model": base_model}
    # Weights that were saved to train on are copied for the SDK's sampler only.
    if checkpoint is not None and "/sampler_weights/" not in checkpoint:
        streams = False
    async with open_sampler(checkpoint, base_model) as sampler:
        if not streams:
            yield StreamingSampler(sampler, None, weights)
            return
        async with httpx2.AsyncClient(
            base_url=os.environ["TINKER_BASE_URL"].rstrip("/") + "/api/v1/",
            headers={"X-API-Key": os.environ["TINKER_API_KEY"]},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None),
        ) as http:
            yield StreamingSampler(sampler, http, weights)


def _refusal(status: int, body: bytes) -> JobFailed | TryAgain:
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"status {status}"
    return _fault(detail, is_final=status < 500 and status not in (408, 425, 429))


def _fault(detail: str, *, is_final: bool) -> JobFailed | TryAgain:
    if is_final:
        return JobFailed(f"The engine refused the work: {plain(detail)}", code="engine_refused")
    return TryAgain(f"The engine could not do the work: {plain(detail)}")


def _result(last: dict[str, Any]) -> list[Sampled]:
    if "error" in last:
        raise _fault(last["error"], is_final=last.get("category") == "user")
    return [_sampled(each, last["prompt_cache_hit_tokens"]) for each in last["sequences"]]


def _sampled(sequence: dict[str, Any], cached_tokens: int) -> Sampled:
    pairs = zip(sequence["topk_tokens"], sequence["topk_logprobs"], strict=True)
    top = [list(zip(*pair, strict=True)) for pair in pairs]
    return Sampled(
        np.asarray(sequence["tokens"], dtype=np.int32),
        np.asarray(sequence["logprobs"], dtype=np.float32),
        truncated=sequence["stop_reason"] == "length",
        top=top or None,
        cached_tokens=cached_tokens,
    )
