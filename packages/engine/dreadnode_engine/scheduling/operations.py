"""What the operations of a run do, each as a generator that yields where others may take a turn.

An operation that raises has changed nothing. One that returns says what to answer, and what else
to write in the transaction that records the answer.
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

from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.training import Limits, check
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.http import protobuf as wire
from dreadnode_engine.http.validation import check_number, parse_body
from dreadnode_engine.state import records
from dreadnode_engine.state.checkpoints import (
    OPTIMIZER_FILE,
    CheckpointPath,
    check_name,
    check_ttl,
    parse_path,
    write_folder,
)
from dreadnode_engine.state.context import Context
from dreadnode_engine.state.records import Checkpoint, Request, Run, Sampler
from dreadnode_engine.state.runs import TrainingState, read_state, write_tensors


@dataclass(frozen=True)
class Outcome:
    """The answer to an operation.

    Attributes:
        changes_state: whether a replay has to repeat the operation.
        record: what else to write in the transaction of the answer.
        publish: what the event loop must know before the client does.
    """

    body: bytes
    media: str = "application/json"
    changes_state: bool = False
    record: Callable[[sqlite3.Connection], None] | None = None
    publish: Callable[[], None] | None = None


Work = Generator[None, None, Outcome]
Making = Generator[None, None, tuple[TrainingState, Outcome]]


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def shape_of(run: Run | Checkpoint) -> LoraShape:
    """Return the LoRA shape of RUN, or of what a checkpoint holds."""
    flags = (run.train_mlp, run.train_attn, run.train_unembed)
    return LoraShape(run.rank, *(bool(flag) for flag in flags))


def limits_of(context: Context, run: Run) -> Limits:
    """Return what one request of RUN may ask for."""
    served = context.residency.base(run.base_model).served
    return Limits(served.vocabulary, served.context)


def _new_state(context: Context, run: Run) -> TrainingState:
    context.residency.room_for_run(run.base_model, shape_of(run))
    base, shape = context.residency.base(run.base_model), shape_of(run)
    wrapper, _ = base.wrapped(shape)
    return TrainingState(base, shape, wrapper.initial(run.seed))


def create(context: Context, run: Run, _: Request) -> Making:
    """Make a new adapter."""
    state = _new_state(context, run)
    yield
    return state, Outcome(_json(model_id=run.id, type="create_model"))


def forward_backward(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Score the targets, and unless it is a forward only, add gradients to those that wait."""
    job = check(wire.decode_forward_backward(request.payload), limits_of(context, run))
    # What was done once is repeated after a kill, whatever memory there is by then.
    if request.state == "queued" and not job.forward_only:
        longest = max(len(example.tokens) for example in job.examples)
        context.residency.check_sequence(state.base.served, state.shape, longest)
    output = yield from state.forward_backward(job, context.settings.micro_batch_tokens)
    return Outcome(
        wire.encode_logprobs(output), wire.MEDIA_TYPE, changes_state=not job.forward_only
    )


def optim_step(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Take one optimizer step."""
    params = parse_body(OptimStepRequest, request.payload).optim_params
    if not isinstance(params, AdamParams):
        raise OperationFailed(f"This engine steps with AdamW, not with {params.type}")
    metrics = state.optim_step(params)
    yield
    return Outcome(_json(metrics=metrics), changes_state=True)


def save_weights(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Save the adapter with its optimizer, to go on from."""
    fields = parse_body(SaveWeightsRequest, request.payload)
    path = CheckpointPath(run.id, "training", check_name(fields.path or f"step-{request.seq:06d}"))
    saved = _save(context, run, state, path, fields, overwrite=fields.overwrite)
    yield
    return Outcome(
        _json(path=str(path), type="save_weights"),
        record=lambda db: records.replace(db, saved),
    )


def save_weights_for_sampler(
    context: Context, run: Run, state: TrainingState, request: Request
) -> Work:
    """Save the adapter to sample from, under a name, or for one sampler only."""
    fields = parse_body(SaveWeightsForSamplerRequest, request.payload)
    if fields.path is not None:
        path = CheckpointPath(run.id, "sampler", check_name(fields.path))
        saved = _save(context, run, state, path, fields, overwrite=False)
        yield
        answer = _json(path=str(path), type="save_weights_for_sampler")
        return Outcome(answer, record=lambda db: records.replace(db, saved))
    number = fields.sampling_session_seq_id
    if number is not None:
        check_number("sampling_session_seq_id", number)
    # The engine's own numbering stays apart from that of samplers that the client makes.
    sampler_id = f"{run.session}:sample:{number if number is not None else f'r{request.seq}'}"
    folder = context.store.sampler(sampler_id)
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
    records.replace(db, sampler)
    if sampler.inflight and sampler.run and sampler.weights:
        records.replace_weights(db, sampler.run, sampler.weights)


def _publish_sampler(context: Context, sampler: Sampler) -> None:
    context.samplers[sampler.id] = sampler
    for other in context.samplers.values():
        if sampler.inflight and other.inflight and other.run == sampler.run:
            other.weights = sampler.weights


def save_weights_external(
    context: Context, run: Run, state: TrainingState, request: Request
) -> Work:
    """Save the adapter in PEFT's format, for the world outside."""
    fields = parse_body(SaveWeightsExternalRequest, request.payload)
    if fields.age_encryption_recipients:
        raise OperationFailed(
            "This engine does not encrypt exports; leave age_encryption_recipients out"
        )
    path = CheckpointPath(run.id, "external", check_name(fields.path))
    saved = _save(context, run, state, path, fields, overwrite=False)
    yield
    return Outcome(
        _json(path=str(path), type="save_weights_external"),
        record=lambda db: records.replace(db, saved),
    )


def refused(context: Context, run: Run, state: TrainingState, request: Request) -> Work:
    """Fail in its turn what could have been refused at once, so that the next has its turn."""
    yield
    raise OperationFailed(json.loads(request.payload)["detail"])


def _save(
    context: Context,
    run: Run,
    state: TrainingState,
    path: CheckpointPath,
    fields: Any,
    *,
    overwrite: bool,
) -> Checkpoint:
    if not overwrite and context.journal.do_now(lambda db: records.find_checkpoint(db, str(path))):
        raise OperationFailed(f"The checkpoint {path} exists already; choose another name")

    def fill(folder: Path) -> None:
        state.wrapper.save(state.parameters, folder, run.base_model)
        if path.kind == "training":
            write_tensors(state.optimizer_tensors(), folder / OPTIMIZER_FILE)

    if fields.ttl_seconds is not None:
        check_ttl(fields.ttl_seconds)
    size = write_folder(context.store.checkpoint(path), fill)
    now, ttl = time.time(), fields.ttl_seconds
    metadata = getattr(fields, "user_metadata", None)
    return Checkpoint(
        path=str(path),
        run=run.id,
        owner=run.owner,
        kind=path.kind,
        name=path.name,
        created=now,
        bytes=size,
        base_model=run.base_model,
        rank=run.rank,
        train_mlp=run.train_mlp,
        train_attn=run.train_attn,
        train_unembed=run.train_unembed,
        expires=now + ttl if ttl else None,
        user_metadata=json.dumps(metadata) if metadata else None,
        base_fingerprint=run.base_fingerprint,
    )


def load_weights(context: Context, run: Run, request: Request) -> Making:
    """Take over the weights of a checkpoint, and its optimizer if that is asked for."""
    fields = parse_body(LoadWeightsRequest, request.payload)
    path = parse_path(fields.path)
    folder = context.store.checkpoint(path)
    base, shape = context.residency.base(run.base_model), shape_of(run)
    if not folder.is_dir():
        raise OperationFailed(f"The checkpoint {path} is no longer there")
    context.residency.room_for_run(run.base_model, shape)
    wrapper, _network = base.wrapped(shape)
    state = TrainingState(base, shape, wrapper.load(folder))
    if fields.optimizer:
        if not (folder / OPTIMIZER_FILE).is_file():
            raise OperationFailed(f"The checkpoint {path} holds no optimizer; load it without")
        state.restore(load_file(folder / OPTIMIZER_FILE))
    yield
    # The checkpoint may be deleted at any time, so a replay must never come to need it.
    take_snapshot(context, run, state, request.seq)
    answer = _json(path=str(path), model_id=run.id, type="load_weights")
    return state, Outcome(answer)


MAKERS: Mapping[str, Callable[[Context, Run, Request], Making]] = {
    "create_model": create,
    "load_weights": load_weights,
}
"""The operations that start from nothing, or leave nothing of what was there."""

OPERATIONS: Mapping[str, Callable[[Context, Run, TrainingState, Request], Work]] = {
    "forward_backward": forward_backward,
    "optim_step": optim_step,
    "save_weights": save_weights,
    "save_weights_for_sampler": save_weights_for_sampler,
    "save_weights_external": save_weights_external,
    "refused": refused,
}
"""The operations on a run that is in memory."""


def take_snapshot(context: Context, run: Run, state: TrainingState, seq: int) -> None:
    """Put the state of RUN after SEQ on disk, and drop what it makes needless to replay."""
    write_tensors(state.tensors(), context.store.snapshot(run.id, seq))
    context.journal.do_now(lambda db: records.set_snapshot(db, run.id, seq))
    run.snapshot = seq
    context.store.forget_snapshots(run.id, keep=seq)


def bring_back(context: Context, run: Run, next_seq: int) -> Generator[None, None, TrainingState]:
    """Rebuild the state of RUN just before NEXT_SEQ: its last snapshot, and what came after it.

    Every replayed operation was done once and answered; doing it again gives the same bits.
    """
    after = 0 if run.snapshot is None else run.snapshot
    if run.snapshot is None:
        first = context.journal.do_now(lambda db: records.find_request(db, f"{run.id}:0"))
        if first is None or first.state != "done":
            raise OperationFailed(f"The run {run.id} could not be made; make a new one")
        state = _new_state(context, run)
    else:
        context.residency.room_for_run(run.base_model, shape_of(run))
        base, file = (
            context.residency.base(run.base_model),
            context.store.snapshot(run.id, run.snapshot),
        )
        state = read_state(base, shape_of(run), file)
    yield
    replay = context.journal.do_now(lambda db: records.to_replay(db, run.id, after, next_seq))
    for request in replay:
        yield from OPERATIONS[request.kind](context, run, state, request)
    return state
