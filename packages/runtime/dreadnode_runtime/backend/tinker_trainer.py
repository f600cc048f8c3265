"""Supervised training through the tinker SDK.

Only this module, `tinker_policy` and `commands.export` use the SDK.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import httpx
import httpx2
import numpy as np
import tinker
from tinker import types
from tinker.lib.retryable_exception import RetryableException

from dreadnode_runtime.backend.adapter import fetch
from dreadnode_runtime.backend.availability import while_available
from dreadnode_runtime.backend.pacing import space_out_polls
from dreadnode_runtime.backend.trainer import Adapter, Export, Optimizer, Saved, StartingWeights
from dreadnode_runtime.backend.usage import TokenMeter
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.data.vision import model_input
from dreadnode_runtime.errors import JobFailed, RuntimeFault, TryAgain, plain

LOSS: Final = "cross_entropy"
NOT_FINITE = "not finite"
"""Part of our engine's message when a loss or a gradient is not finite."""
SIZE_SECONDS = 10.0
MAX_OUTAGE = 15 * 60.0
"""Seconds that the engine may be unreachable before the attempt ends."""
CLOSE_SECONDS = 10.0
"""Time limit of closing the session."""
SDK_ERRORS = (
    # The SDK uses httpx and lets some of its errors through; our downloads use httpx2.
    *(tinker.TinkerError, RetryableException, httpx.HTTPError, httpx2.HTTPError),
    # The SDK raises ValueError for a rejected poll and for a response that it cannot read.
    *(OSError, TimeoutError, RuntimeError, ValueError),
)
"""Everything that a call of the SDK raises when the engine or the network fails."""
T = TypeVar("T")


class TinkerTrainer:
    """Trains through the official SDK, with the engine at `TINKER_BASE_URL`."""

    def __init__(
        self,
        client: tinker.TrainingClient,
        service: tinker.ServiceClient,
        optimizer: Optimizer,
        *,
        resumed: bool,
        meter: TokenMeter | None = None,
        max_outage: float = MAX_OUTAGE,
    ) -> None:
        self._client = client
        self._service = service
        self._optimizer = optimizer
        self._meter = meter or TokenMeter()
        self._max_outage = max_outage
        self.resumed = resumed

    @property
    def tokenizer(self) -> str | None:
        """Folder or hub id of the trained model's tokenizer, if the engine reports it."""
        # The SDK has it since it created the client; this sends no request.
        return self._client.get_info().model_data.tokenizer_id

    async def _until_outage(self, work: Coroutine[Any, Any, T]) -> T:
        """Await WORK without a time limit, unless the engine is unreachable for too long.

        The SDK polls for a result until it gets one, which survives a restart of the engine but
        would also never end.
        """
        return await until_outage(work, self._max_outage)

    def submit(
        self, batches: Sequence[Sequence[Example]], learning_rate: float
    ) -> Awaitable[list[float]]:
        """Submit a forward-backward pass for each of BATCHES and one optimizer step."""
        passes = [self._forward_backward(_datums(batch), LOSS) for batch in batches]
        update = self._client.optim_step(self._adam(learning_rate))

        async def result() -> list[float]:
            losses: list[float] = []
            for batch, output in zip(batches, passes, strict=True):
                try:
                    losses += _losses(batch, await output)
                except tinker.RequestFailedError as error:
                    if NOT_FINITE not in error.message:
                        raise
                    losses += await self._losses_one_by_one(batch)
            await update
            return losses

        return self._until_outage(result())

    async def _losses_one_by_one(self, batch: Sequence[Example]) -> list[float]:
        """Return the loss of each example, after the loss of BATCH was not finite; NaN marks those.

        Some engines return NaN for an example, others refuse the whole batch. Where each example
        alone has a finite loss, the gradient was not finite: every example gets NaN.
        """
        passes = [self._forward(_datums([example])) for example in batch]
        losses = []
        for example, output in zip(batch, passes, strict=True):
            try:
                losses += _losses([example], await output)
            except tinker.RequestFailedError:
                losses.append(math.nan)
        return losses if any(map(math.isnan, losses)) else [math.nan] * len(losses)

    def _forward_backward(
        self,
        data: list[types.Datum],
        loss: types.LossFnType,
        config: Mapping[str, float] | None = None,
    ) -> tinker.APIFuture[types.ForwardBackwardOutput]:
        """Count and submit a forward-backward pass; every one goes through here."""
        self._meter.count_pass(data)
        return self._client.forward_backward(data, loss, config)

    def _forward(self, data: list[types.Datum]) -> tinker.APIFuture[types.ForwardBackwardOutput]:
        """Count and submit a forward pass; every one goes through here."""
        self._meter.count_pass(data)
        return self._client.forward(data, LOSS)

    def _adam(self, learning_rate: float) -> types.AdamParams:
        return types.AdamParams(learning_rate=learning_rate, **asdict(self._optimizer))

    def evaluate(self, batch: Sequence[Example]) -> Awaitable[list[float]]:
        """Submit a forward pass; await it for each example's loss, summed over its tokens."""
        output = self._forward(_datums(batch))

        async def result() -> list[float]:
            return _losses(batch, await output)

        return self._until_outage(result())

    def save(self, name: str) -> Awaitable[Saved]:
        """Submit a save of weights and optimizer."""
        # After a resume the same step is saved again under the same name.
        saved = self._client.save_state(name, overwrite=True)

        async def result() -> Saved:
            path = (await saved).path
            sizes = await self._sizes(path)
            return Saved(path, sizes.get(path))

        return self._until_outage(result())

    async def _sizes(self, path: str) -> dict[str, int]:
        """Return the sizes of all checkpoints of PATH's run that the engine reports."""
        run = path.removeprefix("tinker://").partition("/")[0]
        # The size is optional: the job neither fails nor waits for it.
        with suppress(tinker.TinkerError, OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(SIZE_SECONDS):
                rest = await rest_client()
                found = (await rest.list_checkpoints(run)).checkpoints
            return {c.tinker_path: c.size_bytes for c in found if c.size_bytes is not None}
        return {}

    async def export(self, name: str, folder: Path, checkpoint: str | None = None) -> Export:
        """Save everything under NAME, and download the adapter's files into FOLDER.

        Raises:
            JobFailed: The weights are not finite, or the export lacks a file that PEFT needs.
        """
        client = self._client
        if checkpoint is not None:
            client = await translate_errors(
                asyncio.to_thread(load_weights, self._service, checkpoint)
            )

        async def result() -> tuple[Saved, Saved, dict[str, str]]:
            saved = client.save_state(name, overwrite=True) if checkpoint is None else None
            sampler = client.save_weights_for_sampler(name)
            external = client.save_weights_external(name)
            rest = await rest_client()
            urls = (await rest.get_external_weights_urls((await external).path)).urls
            state = checkpoint or "" if saved is None else (await saved).path
            sampled = (await sampler).path
            sizes = await self._sizes(sampled)
            return Saved(state, sizes.get(state)), Saved(sampled, sizes.get(sampled)), dict(urls)

        state, sampler, urls = await self._until_outage(result())
        notes = await translate_errors(fetch(urls, folder, name, self.tokenizer))
        return Export(state=state, sampler=sampler, adapter=folder, notes=notes)


@asynccontextmanager
async def tinker_trainer(
    *,
    base_model: str,
    adapter: Adapter,
    optimizer: Optimizer,
    resume: str | None,
    metadata: dict[str, str],
    start: StartingWeights | None = None,
    meter: TokenMeter | None = None,
    kind: type[TinkerTrainer] = TinkerTrainer,
) -> AsyncIterator[TinkerTrainer]:
    """Open a training client, and finish its session at the end.

    Training resumes from the checkpoint RESUME, optimizer included, if the engine still has it; the
    trainer's `resumed` says so. Else it begins with the weights START, or with a new adapter. METER
    counts the tokens.

    Raises:
        JobFailed: The engine refuses the model, the rank, or a checkpoint that it has.
        TryAgain: The engine cannot be reached.
    """
    async with session(metadata) as service:
        client = None
        if resume is not None:
            try:
                client = await translate_errors(
                    asyncio.to_thread(_load, service, resume), creating=True
                )
            except JobFailed as refusal:
                # Only lost weights are replaced: for any other reason, such as memory, starting
                # again would pay for all steps twice.
                if not isinstance(refusal.__cause__, tinker.NotFoundError):
                    raise
        resumed = client is not None
        if client is None and start is not None:
            client = await translate_errors(
                asyncio.to_thread(load_weights, service, start.path, start.token), creating=True
            )
        elif client is None:
            client = await translate_errors(
                asyncio.to_thread(_create, service, base_model, adapter), creating=True
            )
        yield kind(client, service, optimizer, resumed=resumed, meter=meter)


@asynccontextmanager
async def session(
    metadata: dict[str, str], key: str | None = None
) -> AsyncIterator[tinker.ServiceClient]:
    """Open a session with the engine, and finish it with the status of the work in it.

    KEY is the engine's key, that of the environment if None.
    """
    status: Literal["success", "errored", "interrupted"] = "errored"
    space_out_polls()
    service = tinker.ServiceClient(user_metadata=metadata, api_key=key)
    try:
        yield service
        status = "success"
    except asyncio.CancelledError:
        status = "interrupted"
        raise
    finally:
        # The results are saved by now; an unreachable engine must not delay the end.
        with suppress(TimeoutError, tinker.TinkerError, httpx.HTTPError, OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await service.close(status)


# The SDK blocks the calling thread in these, so each runs in a thread of its own.


async def rest_client() -> tinker.RestClient:
    """Return a client for lists and downloads of the engine at `TINKER_BASE_URL`.

    It names the address and the key: without them, SDK 0.38 returns to the engine of the first such
    client in this process.
    """
    return await asyncio.to_thread(
        tinker.RestClient,
        base_url=os.environ.get("TINKER_BASE_URL"),
        api_key=os.environ.get("TINKER_API_KEY"),
    )


def _load(service: tinker.ServiceClient, path: str) -> tinker.TrainingClient:
    return service.create_training_client_from_state_with_optimizer(path).result()


def load_weights(
    service: tinker.ServiceClient, path: str, token: str | None = None
) -> tinker.TrainingClient:
    """Return a training client with the weights at PATH and a new optimizer.

    TOKEN opens weights of another owner.
    """
    return service.create_training_client_from_state(path, weights_access_token=token).result()


def _create(
    service: tinker.ServiceClient, base_model: str, adapter: Adapter
) -> tinker.TrainingClient:
    return service.create_lora_training_client(base_model, **asdict(adapter)).result()


def _datums(batch: Sequence[Example]) -> list[types.Datum]:
    """Shift by one: the input is all tokens but the last, the targets all but the first."""
    return [
        types.Datum(
            model_input=model_input(example.tokens[:-1].tolist(), example.images),
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


async def engine_is_available() -> bool:
    """Whether the engine's address answers, with anything but a server error."""
    try:
        async with httpx2.AsyncClient(timeout=10) as http:
            response = await http.get(f"{os.environ['TINKER_BASE_URL'].rstrip('/')}/api/v1/healthz")
    except httpx2.HTTPError:
        return False
    return not response.is_server_error


async def until_outage(work: Coroutine[Any, Any, T], max_outage: float = MAX_OUTAGE) -> T:
    """Await WORK without a time limit, unless the engine is unreachable for MAX_OUTAGE seconds."""
    return await translate_errors(while_available(work, engine_is_available, max_outage))


async def translate_errors(work: Awaitable[T], *, creating: bool = False) -> T:
    """Await WORK, and raise the SDK's errors as this package's own."""
    try:
        return await work
    except RuntimeFault:
        raise
    except SDK_ERRORS as error:
        raise _fault(error, creating=creating) from error


def _fault(error: BaseException, *, creating: bool) -> RuntimeFault:
    """Return `JobFailed` for a refusal that a retry would repeat, else `TryAgain`.

    A 404 while CREATING a run is final; later, it means that the engine lost the run.
    """
    known: Any = error
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        known = error.__cause__  # An earlier request stopped the client: its error says why.
    if isinstance(known, ValueError | RetryableException):
        return TryAgain(f"The engine's result could not be fetched: {_engine_message(known)}")
    final = (tinker.BadRequestError, tinker.UnprocessableEntityError, tinker.PermissionDeniedError)
    refused = isinstance(known, final)
    refused |= isinstance(known, tinker.RequestFailedError) and known.category == "user"
    refused |= creating and isinstance(known, tinker.NotFoundError)
    if refused:
        return JobFailed(
            f"The engine refused the work: {_engine_message(known)}", code="engine_refused"
        )
    return TryAgain(f"The engine could not do the work: {_engine_message(known)}")


def _engine_message(error: BaseException) -> str:
    """Return the engine's own message, without the text that the SDK adds."""
    if isinstance(error, ValueError | RetryableException):
        if not isinstance(error.__cause__, tinker.APIStatusError):
            return "the response is not one of an engine"
        error = error.__cause__
    if isinstance(error, tinker.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        detail = body.get("detail") or body.get("error")
        reason = f": {plain(detail)}" if isinstance(detail, str) else ""
        return f"it responded with {error.status_code}{reason}"
    return plain(
        plain(error).removeprefix("Request failed: ").partition(" for self.request_id=")[0]
    )
