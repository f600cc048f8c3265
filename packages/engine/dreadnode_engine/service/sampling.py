"""Samplers: opened on base models or saved weights, and given sampling requests."""

import asyncio
import secrets
import time

from tinker.types import CreateSamplingSessionRequest

from dreadnode_engine.compute.sampling import parse, plan, with_seed
from dreadnode_engine.errors import Refused
from dreadnode_engine.protocol.validation import MAX_SEQ, check_number, parse_body
from dreadnode_engine.scheduling.snapshots import shape_of
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import parse_path
from dreadnode_engine.state.records import Request, Sampler, new_request, new_sampler


async def create_sampler(engine: Engine, who: Principal, body: bytes) -> Sampler:
    """Open a sampling session on a base model or on saved weights."""
    fields = parse_body(CreateSamplingSessionRequest, body)
    number = fields.sampling_session_seq_id
    check_number("sampling_session_seq_id", number)
    session = engine.session(who, fields.session_id)
    weights = shape = None
    base_model = fields.base_model
    if fields.model_path is not None:
        found = await engine.checkpoint(who, fields.model_path)
        engine.context.check_base(found)
        if base_model not in (None, found.base_model):
            raise Refused(f"The checkpoint {found.path} was made on {found.base_model}")
        base_model = found.base_model
        weights = str(engine.context.files.checkpoint(parse_path(found.path)))
        shape = shape_of(found)
    if base_model is None:
        raise Refused("Send a `base_model` or a `model_path` to sample from")
    served = engine.base_model(base_model)
    await asyncio.to_thread(engine.context.residency.admit, served, shape, sampling=True)
    sampler = new_sampler(session, number, served, fields.model_path, weights)
    samplers = engine.context.samplers
    if (known := samplers.get(sampler.id)) is not None:
        if (known.base_model, known.model_path) != (sampler.base_model, sampler.model_path):
            raise Refused(f"The sampling session {sampler.id} was opened on other weights")
        return known
    engine.check_owned(sampler.owner, samplers.values(), "samplers")
    await engine.context.journal.do(queries.replace, sampler)
    samplers[sampler.id] = sampler
    return sampler


async def sample(engine: Engine, who: Principal, body: bytes) -> tuple[Request, list[str]]:
    """Accept a sampling request; return it with the ids of the sequences it will sample."""
    fields = parse(body)
    seq = fields.seq_id
    if fields.sampling_session_id is None or seq is None or not 0 <= seq < MAX_SEQ:
        raise Refused("A sampling request needs a `sampling_session_id` and a `seq_id`")
    sampler = engine.sampler(who, fields.sampling_session_id)
    engine.context.check_base(sampler)
    plan(fields, engine.base_model(sampler.base_model), seed=0)
    request = new_request(sampler.id, seq, "sample", sampler.owner, body)
    request.body = with_seed(body, secrets.randbits(62))
    accepted, new = await engine.accept(request)
    sampler.used = time.time()
    if new:
        engine.sample_queue(sampler).add(accepted)
    return accepted, [f"{request.id}:{i}" for i in range(fields.num_samples)]
