"""The operations of a run: generators that yield where other queues may compute.

An operation that raises has changed nothing. One that returns gives its result, and what else to
write in the transaction that records the result.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tinker.types import (
    AdamParams,
    LoadWeightsRequest,
    OptimStepRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)

from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.compute.training_state import TrainingState, write_tensors
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.protocol import protobuf
from dreadnode_engine.protocol.validation import check_number, parse_body
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.scheduling.snapshots import new_state, shape_of, take_snapshot
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import (
    OPTIMIZER_FILE,
    CheckpointPath,
    check_name,
    check_ttl,
    parse_path,
    write_folder,
)
from dreadnode_engine.state.records import Checkpoint, Request, Run, Sampler, dump


@dataclass(frozen=True)
class Outcome:
    """The result of an operation.

    Attributes:
        changes_state: whether a replay must repeat the operation.
        record: what else to write in the transaction of the result.
        publish: runs on the event loop before the client gets the result.
        work: how much was computed, for traces.
    """

    body: bytes
    media: str = "application/json"
    changes_state: bool = False
    record: Callable[[sqlite3.Connection], None] | None = None
    publish: Callable[[], None] | None = None
    work: Mapping[str, int] | None = None


Work = Generator[None, None, Outcome]
CreateWork = Generator[None, None, tuple[TrainingState, Outcome]]


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def limits_of(context: Context, run: Run) -> Limits:
    """Return the limits of one request of RUN."""
    served = context.residency.base(run.base_model).served
    return Limits(served.vocabulary, served.context)


def create(context: Context, run: Run, _: Request) -> CreateWork:
    """Create a run with a new adapter."""
    state = new_state(context, run)
    yield
    return state, Outcome(_json(model_id=run.id, type="create_model"))


def forward_backward(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Score the targets; add gradients unless the request is forward-only."""
    job = check(protobuf.decode_forward_backward(request.payload), limits_of(context, run))
    # A replay repeats what was done before the kill, at any free memory.
    if request.state == "queued" and not job.forward_only:
        longest = max(len(example.tokens) for example in job.examples)
        context.residency.check_sequence(state.base.served, state.shape, longest)
    output = yield from state.forward_backward(job, context.settings.micro_batch)
    return Outcome(
        protobuf.encode_logprobs(output),
        protobuf.MEDIA_TYPE,
        changes_state=not job.forward_only,
        work={
            "sequences": len(job.examples),
            "tokens": sum(len(example.tokens) for example in job.examples),
        },
    )


def optim_step(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Take one optimizer step."""
    params = parse_body(OptimStepRequest, request.payload).optim_params
    if not isinstance(params, AdamParams):
        raise OperationFailed(f"This engine trains with AdamW, not with {params.type}")
    metrics = state.optim_step(params)
    yield
    return Outcome(_json(metrics=metrics), changes_state=True)


def save_weights(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Save the adapter with its optimizer state, to resume from."""
    fields = parse_body(SaveWeightsRequest, request.payload)
    path = CheckpointPath(run.id, "training", check_name(fields.path or f"step-{request.seq:06d}"))
    return (yield from _save(context, run, state, path, fields, overwrite=fields.overwrite))


def save_weights_for_sampler(
    context: Context, run: Run, state: TrainingState, request: Request
) -> Work:
    """Save the adapter for sampling, under a name or for one sampler."""
    fields = parse_body(SaveWeightsForSamplerRequest, request.payload)
    if fields.path is not None:
        path = CheckpointPath(run.id, "sampler", check_name(fields.path))
        return (yield from _save(context, run, state, path, fields))
    number = fields.sampling_session_seq_id
    if number is not None:
        check_number("sampling_session_seq_id", number)
    # The letter keeps the engine's own numbers apart from those of the client's samplers.
    sampler_id = f"{run.session}:sample:{number if number is not None else f'r{request.seq}'}"
    folder = context.files.sampler(sampler_id)
    write_folder(folder, lambda to: state.wrapper.save(state.parameters, to, run.base_model))
    now = time.time()
    sampler = Sampler(
        id=sampler_id,
        session=run.session,
        owner=run.owner,
        base_model=run.base_model,
        created=now,
        used=now,
        weights=str(folder),
        run=run.id,
        inflight=fields.kind == "inflight",
        base_fingerprint=run.base_fingerprint,
    )
    yield
    return Outcome(
        _json(sampling_session_id=sampler_id, type="save_weights_for_sampler"),
        record=lambda db: _record_sampler(db, sampler),
        publish=lambda: _publish_sampler(context, sampler),
    )


def _record_sampler(db: sqlite3.Connection, sampler: Sampler) -> None:
    queries.replace(db, sampler)
    if sampler.inflight and sampler.run and sampler.weights:
        queries.replace_weights(db, sampler.run, sampler.weights)


def _publish_sampler(context: Context, sampler: Sampler) -> None:
    context.samplers[sampler.id] = sampler
    for other in context.samplers.values():
        if sampler.inflight and other.inflight and other.run == sampler.run:
            other.weights = sampler.weights


def save_weights_external(
    context: Context, run: Run, state: TrainingState, request: Request
) -> Work:
    """Export the adapter in PEFT's format."""
    fields = parse_body(SaveWeightsExternalRequest, request.payload)
    if fields.age_encryption_recipients:
        raise OperationFailed(
            "This engine does not encrypt exports; leave `age_encryption_recipients` out"
        )
    path = CheckpointPath(run.id, "external", check_name(fields.path))
    return (yield from _save(context, run, state, path, fields))


def refused(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Fail a request that was refused immediately: it keeps its number, so the next one can run."""
    yield
    raise OperationFailed(json.loads(request.payload)["detail"])


def _save(
    context: Context,
    run: Run,
    state: TrainingState,
    path: CheckpointPath,
    fields: Any,
    *,
    overwrite: bool = False,
) -> Work:
    """Save the adapter under PATH, with what the FIELDS of the request say about it."""
    if not overwrite and context.journal.do_now(queries.find, Checkpoint, str(path)):
        raise OperationFailed(f"The checkpoint {path} exists; choose another name or overwrite it")

    def fill(folder: Path) -> None:
        write = state.wrapper.export if path.kind == "external" else state.wrapper.save
        write(state.parameters, folder, run.base_model)
        if path.kind == "training":
            write_tensors(state.optimizer_tensors(), folder / OPTIMIZER_FILE)

    if fields.ttl_seconds is not None:
        check_ttl(fields.ttl_seconds)
    size = write_folder(context.files.checkpoint(path), fill)
    now, ttl = time.time(), fields.ttl_seconds
    saved = Checkpoint(
        path=str(path),
        run=run.id,
        kind=path.kind,
        name=path.name,
        created=now,
        bytes=size,
        expires=now + ttl if ttl else None,
        user_metadata=dump(getattr(fields, "user_metadata", None)),
        **run.adapter(),
    )
    yield
    return Outcome(
        _json(path=str(path), type=fields.type),
        record=lambda db: queries.replace(db, saved),
    )


def load_weights(context: Context, run: Run, request: Request) -> CreateWork:
    """Load the weights of a checkpoint, and its optimizer state if requested."""
    fields = parse_body(LoadWeightsRequest, request.payload)
    path = parse_path(fields.path)
    folder = context.files.checkpoint(path)
    base, shape = context.residency.base(run.base_model), shape_of(run)
    if not folder.is_dir():
        raise OperationFailed(f"The checkpoint {path} was deleted")
    context.residency.reserve_run(run.base_model, shape)
    wrapper, _network = base.wrapper_for(shape)
    state = TrainingState(base, shape, wrapper.load(folder))
    if fields.optimizer:
        if not (folder / OPTIMIZER_FILE).is_file():
            raise OperationFailed(
                f"The checkpoint {path} has no optimizer state; load it without the optimizer"
            )
        state.restore(load_file(folder / OPTIMIZER_FILE))
    yield
    # The checkpoint may be deleted at any time, so a replay must not need it.
    take_snapshot(context, run, state, request.seq)
    result = _json(path=str(path), model_id=run.id, type="load_weights")
    return state, Outcome(result)


CREATE_OPERATIONS: Mapping[str, Callable[[Context, Run, Request], CreateWork]] = {
    "create_model": create,
    "load_weights": load_weights,
}
"""The operations that create or replace the state of a run."""

OPERATIONS: Mapping[str, Callable[[Context, Run, TrainingState, Request], Work]] = {
    "forward_backward": forward_backward,
    "optim_step": optim_step,
    "save_weights": save_weights,
    "save_weights_for_sampler": save_weights_for_sampler,
    "save_weights_external": save_weights_external,
    "refused": refused,
}
"""The operations on the state of a run."""
