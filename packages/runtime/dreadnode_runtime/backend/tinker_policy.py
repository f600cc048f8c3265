"""Reinforcement learning through the tinker SDK: what `tinker_trainer` does, and two verbs more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tinker
from tinker import types

from dreadnode_runtime.backend.policy import Floats, Loss, Sampled, Sampler, Sampling, Sequenced
from dreadnode_runtime.backend.tinker_trainer import (
    NOT_FINITE,
    TinkerTrainer,
    copied,
    session,
    translated,
)
from dreadnode_runtime.errors import TryAgain

T = TypeVar("T")
Watch = Callable[[Coroutine[Any, Any, T]], Coroutine[Any, Any, T]]


class TinkerSampler:
    """Draws through the official SDK."""

    def __init__(self, client: tinker.SamplingClient, watched: Watch[list[Sampled]]) -> None:
        self._client = client
        self._watched = watched

    def sample(
        self, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> Awaitable[list[Sampled]]:
        """Draw COUNT answers to PROMPT in one request."""
        drawing = self._client.sample(
            prompt=types.ModelInput.from_ints(list(prompt)),
            num_samples=count,
            sampling_params=types.SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stop=list(sampling.stop),  # type: ignore[arg-type]  # all ids, or all texts
                seed=seed,
            ),
        )

        async def result() -> list[Sampled]:
            return [_sampled(sequence) for sequence in (await drawing).sequences]

        return self._watched(result())


class TinkerPolicy(TinkerTrainer):
    """Trains a policy through the official SDK, against whatever stands behind it."""

    def learn(
        self, batch: Sequence[Sequenced], loss: Loss, learning_rate: float
    ) -> Awaitable[list[Floats]]:
        """Queue a forward-backward of LOSS and one optimizer step after it."""
        pass_ = self._client.forward_backward(
            [_datum(sequence) for sequence in batch], loss.name, dict(loss.config) or None
        )
        update = self._client.optim_step(self._adam(learning_rate))

        async def result() -> list[Floats]:
            try:
                output = await pass_
            except tinker.RequestFailedError as error:
                if NOT_FINITE not in error.message:
                    raise
                # Other engines answer NaN in its place, and the loop knows what to say of that.
                return [np.full(len(each.tokens) - 1, np.nan, np.float32) for each in batch]
            await update
            return [found["logprobs"].to_numpy() for found in output.loss_fn_outputs]

        return self._watched(result())

    def sampler(self) -> Awaitable[Sampler]:
        """Queue a copy of the weights to draw from."""
        made = self._client.save_weights_and_get_sampling_client()

        async def result() -> Sampler:
            return TinkerSampler(await made, self._watched)

        return self._watched(result())


@asynccontextmanager
async def open_sampler(checkpoint: str) -> AsyncIterator[Sampler]:
    """Draw from the weights at CHECKPOINT, which were saved to sample from or to train on.

    Raises:
        JobFailed: The engine does not have them, or does not give them to this key.
        TryAgain: The engine cannot be reached.
    """
    async with session({}) as service:
        made = _sampling if "/sampler_weights/" in checkpoint else _sampling_of_copy
        client = await translated(asyncio.to_thread(made, service, checkpoint), making=True)
        yield TinkerSampler(client, translated)


# These wait for the network in the calling thread, so each gets a thread of its own.


def _sampling(service: tinker.ServiceClient, path: str) -> tinker.SamplingClient:
    return service.create_sampling_client(path).result()


def _sampling_of_copy(service: tinker.ServiceClient, path: str) -> tinker.SamplingClient:
    return copied(service, path).save_weights_and_get_sampling_client().result()


def _datum(sequence: Sequenced) -> types.Datum:
    """Shift by one: the model sees all but the last token, and predicts all but the first."""
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


def _sampled(sequence: types.SampledSequence) -> Sampled:
    tokens = np.asarray(sequence.tokens, dtype=np.int32)
    if sequence.logprobs is None or len(sequence.logprobs) != len(tokens):
        raise TryAgain("The engine drew tokens without telling their log-probabilities")
    logprobs = np.asarray(sequence.logprobs, dtype=np.float32)
    return Sampled(tokens, logprobs, truncated=sequence.stop_reason == "length")
