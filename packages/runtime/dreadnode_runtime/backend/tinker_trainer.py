"""The one module that speaks to the tinker SDK."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import httpx
import numpy as np
import tinker
from tinker import types

from dreadnode_runtime.backend.availability import while_there
from dreadnode_runtime.backend.trainer import Export, Optimizer, Saved
from dreadnode_runtime.data.rendering import Example
from dreadnode_runtime.errors import JobFailed, RuntimeFault, TryAgain, plain
from dreadnode_runtime.jobs.adapter import fetch

LOSS: Final = "cross_entropy"
NOT_FINITE = "not finite"
"""How our engine's refusal of a loss or gradient that is no number can be told from others."""
WEIGHTS = "adapter_model.safetensors"
SIZE_SECONDS = 10.0
PATIENCE = 15 * 60.0
"""Seconds for which the engine may be away before a job gives up."""
CLOSING = 10.0
"""Seconds that saying goodbye to the engine may take."""
T = TypeVar("T")


class TinkerTrainer:
    """Trains through the official SDK, against whatever stands behind `TINKER_BASE_URL`."""

    def __init__(
        self,
        client: tinker.TrainingClient,
        service: tinker.ServiceClient,
        optimizer: Optimizer,
        *,
        resumed: bool,
        patience: float = PATIENCE,
    ) -> None:
        self._client = client
        self._service = service
        self._optimizer = optimizer
        self._patience = patience
        self.resumed = resumed

    @property
    def tokenizer(self) -> str | None:
        """Where the trained model's tokenizer is, if the engine says so."""
        # Known since the client was made, so that this asks nobody.
        return self._client.get_info().model_data.tokenizer_id

    async def _watched(self, work: Coroutine[Any, Any, T]) -> T:
        """Await WORK for as long as it takes, unless the engine is away for too long.

        The SDK asks for a result until it gets one, which bridges a restart, and would also wait
        for ever.
        """
        return await translated(while_there(work, engine_answers, self._patience))

    def submit(
        self, batches: Sequence[Sequence[Example]], learning_rate: float
    ) -> Awaitable[list[float]]:
        """Queue a forward-backward for each of BATCHES and one optimizer step after them."""
        passes = [self._client.forward_backward(_datums(batch), LOSS) for batch in batches]
        update = self._client.optim_step(self._adam(learning_rate))

        async def result() -> list[float]:
            losses: list[float] = []
            for batch, output in zip(batches, passes, strict=True):
                try:
                    losses += _losses(batch, await output)
                except tinker.RequestFailedError as error:
                    if NOT_FINITE not in error.message:
                        raise
                    losses += await self._one_by_one(batch)
            await update
            return losses

        return self._watched(result())

    async def _one_by_one(self, batch: Sequence[Example]) -> list[float]:
        """Return the loss of each example, NaN where there is none, after BATCH had none.

        Some engines answer NaN in its place and others refuse the whole batch. Where each example
        has a loss by itself, it is the gradient that is no number, and no example is to blame.
        """
        passes = [self._client.forward(_datums([example]), LOSS) for example in batch]
        losses = []
        for example, output in zip(batch, passes, strict=True):
            try:
                losses += _losses([example], await output)
            except tinker.RequestFailedError:
                losses.append(math.nan)
        return losses if any(map(math.isnan, losses)) else [math.nan] * len(losses)

    def _adam(self, learning_rate: float) -> types.AdamParams:
        o = self._optimizer
        return types.AdamParams(
            learning_rate=learning_rate,
            beta1=o.beta1,
            beta2=o.beta2,
            eps=o.eps,
            weight_decay=o.weight_decay,
            grad_clip_norm=o.grad_clip_norm,
        )

    def evaluate(self, batch: Sequence[Example]) -> Awaitable[list[float]]:
        """Queue a forward pass; await it for each example's loss, summed over its tokens."""
        output = self._client.forward(_datums(batch), LOSS)

        async def result() -> list[float]:
            return _losses(batch, await output)

        return self._watched(result())

    def save(self, name: str) -> Awaitable[Saved]:
        """Queue a save of weights and optimizer; await what to resume from."""
        # A second try of the same step, after a resume, may find the name taken.
        saved = self._client.save_state(name, overwrite=True)

        async def result() -> Saved:
            path = (await saved).path
            sizes = await self._sizes(path)
            return Saved(path, sizes.get(path))

        return self._watched(result())

    async def _sizes(self, path: str) -> dict[str, int]:
        """Return the sizes of all checkpoints of PATH's run, as far as the engine tells them."""
        run = path.removeprefix("tinker://").partition("/")[0]
        # A size is nice to know, and nothing to fail or to wait for.
        with suppress(tinker.TinkerError, httpx.HTTPError, OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(SIZE_SECONDS):
                rest = await asyncio.to_thread(tinker.RestClient)
                found = (await rest.list_checkpoints(run)).checkpoints
            return {c.tinker_path: c.size_bytes for c in found if c.size_bytes is not None}
        return {}

    async def export(self, name: str, folder: Path, checkpoint: str | None = None) -> Export:
        """Save everything under NAME, and fetch the adapter's files into FOLDER.

        Raises:
            JobFailed: The weights are no numbers, or the export lacks a file that PEFT needs.
        """
        client = self._client
        if checkpoint is not None:
            client = await translated(asyncio.to_thread(copied, self._service, checkpoint))

        async def result() -> tuple[Saved, Saved, dict[str, str]]:
            saved = client.save_state(name, overwrite=True) if checkpoint is None else None
            sampler = client.save_weights_for_sampler(name)
            external = client.save_weights_external(name)
            rest = await asyncio.to_thread(tinker.RestClient)
            urls = (await rest.get_external_weights_urls((await external).path)).urls
            state = checkpoint or "" if saved is None else (await saved).path
            sampled = (await sampler).path
            sizes = await self._sizes(sampled)
            return Saved(state, sizes.get(state)), Saved(sampled, sizes.get(sampled)), dict(urls)

        state, sampler, urls = await self._watched(result())
        await translated(fetch(urls, folder, name))
        return Export(state=state, sampler=sampler, adapter=folder)


@asynccontextmanager
async def tinker_trainer(
    *,
    base_model: str,
    rank: int,
    seed: int,
    optimizer: Optimizer,
    resume: str | None,
    metadata: dict[str, str],
    kind: type[TinkerTrainer] = TinkerTrainer,
) -> AsyncIterator[TinkerTrainer]:
    """Make a training client, and finish its session at the end.

    It goes on from the checkpoint RESUME, optimizer included, if the engine still has it; whether
    it does is the trainer's `resumed`.

    Raises:
        JobFailed: The engine refuses the model or the rank.
        TryAgain: The engine cannot be reached.
    """
    async with session(metadata) as service:
        client = None
        if resume is not None:
            with suppress(JobFailed):
                client = await translated(asyncio.to_thread(_load, service, resume), making=True)
        resumed = client is not None
        if client is None:
            client = await translated(
                asyncio.to_thread(_create, service, base_model, rank, seed), making=True
            )
        yield kind(client, service, optimizer, resumed=resumed)


@asynccontextmanager
async def session(metadata: dict[str, str]) -> AsyncIterator[tinker.ServiceClient]:
    """Open a session with the engine, and finish it in the way in which it ended."""
    status: Literal["success", "errored", "interrupted"] = "errored"
    service = tinker.ServiceClient(user_metadata=metadata)
    try:
        yield service
        status = "success"
    except asyncio.CancelledError:
        status = "interrupted"
        raise
    finally:
        # The work is saved by now; an engine that is away must not keep the process alive.
        with suppress(TimeoutError, tinker.TinkerError, httpx.HTTPError, OSError):
            async with asyncio.timeout(CLOSING):
                await service.close(status)


# These wait for the network in the calling thread, so each gets a thread of its own.


def _load(service: tinker.ServiceClient, path: str) -> tinker.TrainingClient:
    return service.create_training_client_from_state_with_optimizer(path).result()


def copied(service: tinker.ServiceClient, path: str) -> tinker.TrainingClient:
    """Return a client for a copy of the weights at PATH, the optimizer left out."""
    return service.create_training_client_from_state(path).result()


def _create(
    service: tinker.ServiceClient, base_model: str, rank: int, seed: int
) -> tinker.TrainingClient:
    return service.create_lora_training_client(base_model=base_model, rank=rank, seed=seed).result()


def _datums(batch: Sequence[Example]) -> list[types.Datum]:
    """Shift by one: the model sees all but the last token, and predicts all but the first."""
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(example.tokens[:-1].tolist()),
            loss_fn_inputs={
                "target_tokens": types.TensorData.from_numpy(example.tokens[1:].astype(np.int64)),
                "weights": types.TensorData.from_numpy(example.weights[1:]),
            },
        )
        for example in batch
    ]


def _losses(batch: Sequence[Example], output: types.ForwardBackwardOutput) -> list[float]:
    return [
        -float(found["logprobs"].to_numpy()[example.trained[1:]].sum(dtype=np.float64))
        for example, found in zip(batch, output.loss_fn_outputs, strict=True)
    ]


async def engine_answers() -> bool:
    """Whether anything speaks HTTP where the engine should be."""
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            answer = await http.get(f"{os.environ['TINKER_BASE_URL'].rstrip('/')}/api/v1/healthz")
    except httpx.HTTPError:
        return False
    return not answer.is_server_error


async def translated(work: Awaitable[T], *, making: bool = False) -> T:
    """Await WORK, and say what goes wrong in this package's words."""
    try:
        return await work
    except RuntimeFault:
        raise
    except (tinker.TinkerError, httpx.HTTPError, OSError, TimeoutError, RuntimeError) as error:
        raise _fault(error, making=making) from error


def _fault(error: BaseException, *, making: bool) -> RuntimeFault:
    """Return whose fault ERROR is: a refusal that will be repeated is the job's.

    What is unknown when a run is being MADE will stay so; a run that becomes unknown was lost.
    """
    known: Any = error
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        known = error.__cause__  # The client was stopped by an earlier request, which says why.
    final = (tinker.BadRequestError, tinker.UnprocessableEntityError, tinker.PermissionDeniedError)
    refused = isinstance(known, final)
    refused |= isinstance(known, tinker.RequestFailedError) and known.category == "user"
    refused |= making and isinstance(known, tinker.NotFoundError)
    if refused:
        return JobFailed(f"The engine refused the work: {_said(known)}", code="engine_refused")
    return TryAgain(f"The engine could not do the work: {_said(known)}")


def _said(error: BaseException) -> str:
    """Return the engine's own words, without what the SDK puts around them."""
    return plain(
        plain(error).removeprefix("Request failed: ").partition(" for self.request_id=")[0]
    )
