"""Training runs: created, loaded from checkpoints, and given operations."""

import asyncio
import json
import secrets
import time
from typing import Any

from tinker.types import CreateModelRequest, LoadWeightsRequest, LoraConfig

from dreadnode_engine.base_models.discovery import MAX_RANK
from dreadnode_engine.errors import Refused
from dreadnode_engine.protocol.validation import MAX_SEQ, check_adamw, check_number, parse_body
from dreadnode_engine.scheduling.snapshots import shape_of
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Checkpoint, Request, Run, new_request, new_run

DEFAULT_RANK = 32


async def create_model(engine: Engine, who: Principal, body: bytes) -> Request:
    """Create a run with a new adapter."""
    fields = parse_body(CreateModelRequest, body)
    check_number("model_seq_id", fields.model_seq_id)
    session = engine.session(who, fields.session_id)
    check_adamw(fields.optimizer_config.type)
    served = engine.base_model(fields.base_model)
    lora = fields.lora_config or LoraConfig(rank=DEFAULT_RANK)
    shape = checked_shape(lora, seed=secrets.randbits(31))
    run = new_run(session, fields.model_seq_id, served, fields.user_metadata, **shape)
    await asyncio.to_thread(engine.context.residency.admit, served, shape_of(run))
    return await _start_run(engine, run, "create_model", body)


def checked_shape(lora: LoraConfig, seed: int) -> dict[str, Any]:
    """Return the shape and the seed of an adapter that LORA describes, or refuse it.

    SEED is taken if it names none.
    """
    if not 1 <= lora.rank <= MAX_RANK:
        raise Refused(f"The LoRA rank must be from 1 to {MAX_RANK}, not {lora.rank}")
    if not (lora.train_mlp or lora.train_attn or lora.train_unembed):
        raise Refused(
            "The adapter has nothing to train; turn on train_mlp, train_attn or train_unembed"
        )
    chosen = seed if lora.seed is None else lora.seed
    return lora.model_dump(exclude={"seed"}) | {"seed": chosen % 2**63}


async def load_weights(
    engine: Engine, who: Principal, body: bytes, reader: Principal | None = None
) -> Request:
    """Create a run from a checkpoint that WHO or READER may read, or load it into a run."""
    fields = parse_body(LoadWeightsRequest, body)
    if fields.model_id is not None:
        return await _load_into(engine, who, fields.model_id, fields, body, reader)
    found = await _loadable(engine, who, fields, reader)
    if fields.session_id is None or fields.model_seq_id is None:
        raise Refused("Send a `session_id` and a `model_seq_id`, or a `model_id` and a `seq_id`")
    check_number("model_seq_id", fields.model_seq_id)
    session = engine.session(who, fields.session_id)
    if fields.optimizer_config is not None:
        check_adamw(fields.optimizer_config.type)
    if fields.base_model not in (None, found.base_model):
        raise Refused(f"The checkpoint {found.path} was made on {found.base_model}")
    served = engine.base_model(found.base_model)
    await asyncio.to_thread(engine.context.residency.admit, served, shape_of(found))
    shape = found.shape()
    run = new_run(session, fields.model_seq_id, served, fields.user_metadata, seed=0, **shape)
    return await _start_run(engine, run, "load_weights", body)


async def _loadable(
    engine: Engine, who: Principal, fields: LoadWeightsRequest, reader: Principal | None
) -> Checkpoint:
    found = await engine.checkpoint(who, fields.path, reader)
    engine.context.check_base(found)
    if found.kind != "training" and fields.optimizer:
        raise Refused(
            f"The checkpoint {found.path} has no optimizer state; load it without the optimizer"
        )
    return found


async def _load_into(
    engine: Engine,
    who: Principal,
    run_id: str,
    fields: LoadWeightsRequest,
    body: bytes,
    reader: Principal | None,
) -> Request:
    base_model = engine.run(who, run_id).run.base_model
    try:
        found = await _loadable(engine, who, fields, reader)
        if found.base_model != base_model:
            raise Refused(f"The checkpoint {found.path} was made on {found.base_model}")  # noqa: TRY301
    except Refused as refusal:
        # The client has used this sequence number: the next operation must not wait for it.
        detail = json.dumps({"detail": str(refusal)}).encode()
        return await submit(engine, who, run_id, fields.seq_id, "refused", detail)
    return await submit(engine, who, run_id, fields.seq_id, "load_weights", body)


async def submit(
    engine: Engine, who: Principal, run_id: str, seq: int | None, kind: str, body: bytes
) -> Request:
    """Accept an operation of a run; a repeated submit returns the same request."""
    queue = engine.run(who, run_id)
    if seq is None or not 1 <= seq < MAX_SEQ:
        raise Refused("The field `seq_id` of an operation must be 1 or more")
    if queue.run.unloaded:
        raise Refused(f"The run {run_id} is unloaded; create one from a checkpoint")
    engine.context.check_base(queue.run)
    request = new_request(run_id, seq, kind, queue.run.owner, body)
    accepted, new = await engine.accept(request)
    queue.run.used = time.time()
    if new:
        queue.add(accepted)
    return accepted


async def unload(engine: Engine, who: Principal, run_id: str) -> None:
    """Unload a run: it takes no more operations."""
    queue = engine.run(who, run_id)
    queue.run.unloaded = True
    await engine.context.journal.do(queries.update, Run, run_id, unloaded=True)
    queue.release()


async def _start_run(engine: Engine, run: Run, kind: str, body: bytes) -> Request:
    if run.id not in engine.runs:
        engine.check_owned(run.owner, [each.run for each in engine.runs.values()], "runs")
    request = new_request(run.id, 0, kind, run.owner, body)
    accepted, new = await engine.accept(request, also=lambda db: queries.insert(db, run))
    if new:
        engine.add_run(run, set()).add(accepted)
    return accepted
