"""Policy training and sampling through the tinker SDK."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tinker
from tinker import types

from dreadnode_runtime.backend.policy import (
    Floats,
    Loss,
    Sampled,
    Sampler,
    SamplingParams,
    TrainingSequence,
)
from dreadnode_runtime.backend.tinker_trainer import (
    NOT_FINITE,
    TinkerTrainer,
    load_weights,
    session,
    translate_errors,
)
from dreadnode_runtime.backend.usage import TokenMeter
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.data.vision import model_input
from dreadnode_runtime.errors import JobFailed, TryAgain

Watch = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]
"""Awaits a request, and translates its errors."""


@dataclass(frozen=True)
class TinkerSampler:
    """Samples through the official SDK."""

    client: tinker.SamplingClient
    watch: Watch
    meter: TokenMeter = field(default_factory=TokenMeter)

    def sample(
        self, prompt: Sequence[int], count: int, sampling: SamplingParams, seed: int
    ) -> Awaitable[list[Sampled]]:
        """Sample COUNT completions of PROMPT in one request."""
        future = self.client.sample(
            prompt=types.ModelInput.from_ints(list(prompt)),
            num_samples=count,
            sampling_params=types.SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stop=list(sampling.stop),  # type: ignore[arg-type]  # all ids, or all strings
                seed=seed,
            ),
            topk_sample_logprobs=sampling.topk,
        )

        async def result() -> list[Sampled]:
            response = await future
            self.meter.count_sample(len(prompt), response)
            cached = response.prompt_cache_hit_tokens
            return [_sampled(sequence, cached) for sequence in response.sequences]

        return self.watch(result())

    def loss(self, example: Example) -> Awaitable[float]:
        """Compute the loss of EXAMPLE in one request, which also samples a token."""
        trained = example.trained
        future = self.client.sample(
            prompt=model_input(example.tokens.tolist(), example.images),
            num_samples=1,
            sampling_params=types.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            # The tokens before the first trained one can come from the engine's prefix cache.
            prompt_logprobs_last_n=len(example.tokens) - int(np.argmax(trained)),
        )

        async def result() -> float:
            response = await future
            self.meter.count_sample(len(example.tokens), response)
            found = response.prompt_logprobs
            if found is None or len(found) != len(example.tokens):
                raise TryAgain("The engine returned no log-probabilities of the prompt")
            loss = -float(np.array(found, dtype=np.float64)[trained].sum())
            if not math.isfinite(loss):
                raise JobFailed(
                    f"The loss of row {example.row} is not finite, so the weights are not either; "
                    "evaluate an earlier checkpoint",
                    code="diverged",
                )
            return loss

        return self.watch(result())


class TinkerPolicy(TinkerTrainer):
    """Trains a policy through the official SDK, with any engine of its protocol."""

    def submit_update(
        self, batch: Sequence[TrainingSequence], loss: Loss, learning_rate: float
    ) -> Awaitable[list[Floats]]:
        """Submit a forward-backward pass of LOSS and one optimizer step."""
        forward_backward = self._forward_backward(
            [_datum(sequence) for sequence in batch], loss.name, dict(loss.config) or None
        )
        update = self._client.optim_step(self._adam(learning_rate))

        async def result() -> list[Floats]:
            try:
                output = await forward_backward
            except tinker.RequestFailedError as error:
                if NOT_FINITE not in error.message:
                    raise
                # Other engines return NaN instead, and the loop reports that.
                return [np.full(len(each.tokens) - 1, np.nan, np.float32) for each in batch]
            await update
            return [found["logprobs"].to_numpy() for found in output.loss_fn_outputs]

        return self._until_outage(result())

    def sampler(self) -> Awaitable[Sampler]:
        """Submit a copy of the weights to sample from."""
        future = self._client.save_weights_and_get_sampling_client()

        async def result() -> Sampler:
            return TinkerSampler(await future, self._until_outage, self._meter)

        return self._until_outage(result())


@asynccontextmanager
async def open_sampler(
    checkpoint: str | None,
    base_model: str,
    *,
    key: str | None = None,
    meter: TokenMeter | None = None,
    watch: Watch = translate_errors,
) -> AsyncIterator[TinkerSampler]:
    """Open a sampler of the weights at CHECKPOINT, of either kind; without one, of BASE_MODEL.

    Args:
        checkpoint: Path of the weights.
        base_model: Name of the base model on the engine.
        key: The engine's key; that of the environment if None.
        meter: Counts the tokens.
        watch: Awaits each request; `until_outage` outlasts a restart of the engine.

    Raises:
        JobFailed: The engine does not have them, or this key may not read them.
        TryAgain: The engine cannot be reached.
    """
    async with session({}, key) as service:
        client = await translate_errors(
            asyncio.to_thread(_open_sampler, service, checkpoint, base_model), creating=True
        )
        yield TinkerSampler(client, watch, meter or TokenMeter())


# The SDK blocks the calling thread in these, so each runs in a thread of its own.


def _open_sampler(
    service: tinker.ServiceClient, checkpoint: str | None, base_model: str
) -> tinker.SamplingClient:
    if checkpoint is None:
        return service.create_sampling_client(base_model=base_model).result()
    if "/sampler_weights/" in checkpoint:
        return service.create_sampling_client(checkpoint).result()
    return _sampler_of_training_weights(service, checkpoint)


def _sampler_of_training_weights(service: tinker.ServiceClient, path: str) -> tinker.SamplingClient:
    return load_weights(service, path).save_weights_and_get_sampling_client().result()


def _datum(sequence: TrainingSequence) -> types.Datum:
    """Shift by one: the input is all tokens but the last, the targets all but the first."""
    inputs: dict[str, npt.NDArray[Any]] = {
        "target_tokens": sequence.tokens[1:].astype(np.int64),
        "logprobs": sequence.logprobs[1:],
        "advantages": sequence.advantages[1:],
    }
    return types.Datum(
        model_input=types.ModelInput.from_ints(sequence.tokens[:-1].tolist()),
        loss_fn_inputs={
            name: types.TensorData.from_numpy(values) for name, values in inputs.items()
        },
    )


def _sampled(sequence: types.SampledSequence, cached_tokens: int) -> Sampled:
    tokens = np.asarray(sequence.tokens, dtype=np.int32)
    if sequence.logprobs is None or len(sequence.logprobs) != len(tokens):
        raise TryAgain("The engine returned sampled tokens without their log-probabilities")
    logprobs = np.asarray(sequence.logprobs, dtype=np.float32)
    top = sequence.topk_logprobs
    return Sampled(
        tokens,
        logprobs,
        truncated=sequence.stop_reason == "length",
        top=None if top is None else [each or () for each in top],
        cached_tokens=cached_tokens,
    )
