"""The engine: what may be asked of it, who may ask, and how everything comes back after a kill.

These are the calls behind the HTTP routes, without any HTTP. They run on the event loop and never
compute: they check, journal, and hand over to a lane.
"""

import asyncio
import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial

from tinker.types import (
    CreateModelRequest,
    CreateSamplingSessionRequest,
    CreateSessionRequest,
    LoadWeightsRequest,
)

from dreadnode_engine.compute.memory import available
from dreadnode_engine.compute.sampling import parse, plan, with_seed
from dreadnode_engine.compute.served_models import MAX_RANK, ServedModel
from dreadnode_engine.errors import Gone, NotFound, Refused
from dreadnode_engine.http.keys import Principal
from dreadnode_engine.http.validation import (
    MAX_SEQ,
    check_adamw,
    check_number,
    json_object,
    parse_body,
)
from dreadnode_engine.scheduling.operations import shape_of
from dreadnode_engine.scheduling.residency import Residency
from dreadnode_engine.scheduling.run_queue import RunLane
from dreadnode_engine.scheduling.sample_queue import SampleLane
from dreadnode_engine.state import records
from dreadnode_engine.state.checkpoints import parse_path
from dreadnode_engine.state.context import Context, Settings
from dreadnode_engine.state.records import (
    Checkpoint,
    Request,
    Run,
    Sampler,
    Session,
    dump,
    new_request,
    new_run,
    new_sampler,
)
from dreadnode_engine.state.recovery import recover

log = logging.getLogger(__name__)


class Engine(Context):
    """Sessions, runs and samplers, with their lanes. Make it on the event loop."""

    def __init__(self, settings: Settings, models: dict[str, ServedModel]) -> None:
        super().__init__(settings, models)
        budget = settings.memory or available(settings.device.name)
        self.residency = Residency(self, budget)
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, RunLane] = {}
        self.sample_lanes: dict[str, SampleLane] = {}
        self.read_at: dict[str, float] = {}
        self.asked_at: dict[str, float] = {}
        self.started = time.time()

    async def start(self) -> None:
        """Bring back what the journal holds, and start computing."""
        await recover(self)
        self.worker.start()

    def stop(self) -> None:
        """Finish the slice under way, put every run on disk, and close the journal."""
        self.underway.stop()
        self.worker.stop()
        for lane in self.runs.values():
            lane.let_go()
        self.journal.close()
        self.underway.close()

    # Sessions

    async def create_session(
        self, who: Principal, body: bytes, idempotency_key: str | None
    ) -> Session:
        """Open a session; asked again with the same key, return the same one."""
        # The SDK leaves nulls out, also of this field, which its own type insists on.
        whole = {"user_metadata": None} | json_object(body)
        fields = parse_body(CreateSessionRequest, json.dumps(whole).encode())
        for session in self.sessions.values():
            same = idempotency_key is not None and session.idempotency_key == idempotency_key
            if same and session.owner == who.subject:
                return session
        now = time.time()
        session = Session(
            id=secrets.token_hex(16),
            owner=who.subject,
            created=now,
            seen=now,
            idempotency_key=idempotency_key,
            user_metadata=dump(fields.user_metadata),
            display_name=fields.display_name,
        )
        await self.journal.do(lambda db: records.insert(db, session))
        self.sessions[session.id] = session
        return session

    def session(self, who: Principal, session_id: str) -> Session:
        """Return a session of WHO's."""
        session = self.sessions.get(session_id)
        if session is None or not who.sees(session.owner):
            raise NotFound(f"There is no session `{session_id[:100]}`")
        return session

    def heartbeat(self, who: Principal, session_id: str) -> None:
        """Note that a client is alive; what waited while it was silent goes on."""
        session = self.session(who, session_id)
        if session.finished is not None:
            raise Gone(f"The session {session_id} is over; it needs no more heartbeats")
        session.seen = time.time()
        for lane in self.runs.values():
            if lane.paused and lane.run.session == session_id:
                lane.paused = False
                self.worker.wake(lane)

    async def finish_session(self, who: Principal, session_id: str) -> None:
        """End a session: what it left in memory is freed when nothing is under way."""
        session = self.session(who, session_id)
        session.finished = session.finished or time.time()
        await self.journal.do(lambda db: records.replace(db, session))

    # Runs

    async def create_model(self, who: Principal, body: bytes) -> Request:
        """Make a run with a new adapter."""
        fields = parse_body(CreateModelRequest, body)
        check_number("model_seq_id", fields.model_seq_id)
        session = self.session(who, fields.session_id)
        check_adamw(fields.optimizer_config.type)
        served = self.served(fields.base_model)
        lora = fields.lora_config
        rank = lora.rank if lora else 32
        if not 1 <= rank <= MAX_RANK:
            raise Refused(f"A LoRA rank of {rank} is not served; choose 1 to {MAX_RANK}")
        if lora and not (lora.train_mlp or lora.train_attn or lora.train_unembed):
            raise Refused("Nothing is left to train; turn on train_mlp, _attn or _unembed")
        seed = lora.seed if lora and lora.seed is not None else secrets.randbits(31)
        run = new_run(
            session,
            fields.model_seq_id,
            served,
            fields.user_metadata,
            rank=rank,
            seed=seed % 2**63,
            train_mlp=lora.train_mlp if lora else True,
            train_attn=lora.train_attn if lora else True,
            train_unembed=lora.train_unembed if lora else True,
        )
        await asyncio.to_thread(self.residency.admit, served, shape_of(run))
        return await self._start_run(run, "create_model", body)

    async def load_weights(self, who: Principal, body: bytes) -> Request:
        """Make a run from a checkpoint, or load one into a run that exists."""
        fields = parse_body(LoadWeightsRequest, body)
        if fields.model_id is not None:
            return await self._load_into(who, fields.model_id, fields, body)
        found = await self._loadable(who, fields)
        if fields.session_id is None or fields.model_seq_id is None:
            raise Refused("Name a session_id and a model_seq_id, or a model_id and a seq_id")
        check_number("model_seq_id", fields.model_seq_id)
        session = self.session(who, fields.session_id)
        if fields.optimizer_config is not None:
            check_adamw(fields.optimizer_config.type)
        if fields.base_model not in (None, found.base_model):
            raise Refused(f"The checkpoint {found.path} is of {found.base_model}")
        served = self.served(found.base_model)
        await asyncio.to_thread(self.residency.admit, served, shape_of(found))
        run = new_run(
            session,
            fields.model_seq_id,
            served,
            fields.user_metadata,
            rank=found.rank,
            seed=0,
            train_mlp=found.train_mlp,
            train_attn=found.train_attn,
            train_unembed=found.train_unembed,
        )
        return await self._start_run(run, "load_weights", body)

    async def _loadable(self, who: Principal, fields: LoadWeightsRequest) -> Checkpoint:
        found = await self.checkpoint(who, fields.path)
        self.check_base(found)
        if found.kind != "training" and fields.optimizer:
            raise Refused(f"The checkpoint {found.path} holds no optimizer; load it without")
        return found

    async def _load_into(
        self, who: Principal, run_id: str, fields: LoadWeightsRequest, body: bytes
    ) -> Request:
        base_model = self.run(who, run_id).run.base_model
        try:
            found = await self._loadable(who, fields)
            if found.base_model != base_model:
                raise Refused(f"The checkpoint {found.path} is of {found.base_model}")  # noqa: TRY301
        except Refused as refusal:
            # The client has used its number up, and what it numbers next must not wait for it.
            sentence = json.dumps({"detail": str(refusal)}).encode()
            return await self.submit(who, run_id, fields.seq_id, "refused", sentence)
        return await self.submit(who, run_id, fields.seq_id, "load_weights", body)

    async def submit(
        self, who: Principal, run_id: str, seq: int | None, kind: str, body: bytes
    ) -> Request:
        """Accept an operation of a run, to be done in its turn; asked again, accept it once."""
        lane = self.run(who, run_id)
        if seq is None or not 1 <= seq < MAX_SEQ:
            raise Refused("An operation needs a `seq_id` of 1 or more")
        if lane.run.unloaded:
            raise Refused(f"The run {run_id} was unloaded; make a new one from a checkpoint")
        self.check_base(lane.run)
        request = new_request(run_id, seq, kind, lane.run.owner, body)
        accepted = await self._accept(request)
        lane.run.used = time.time()
        if accepted is request:
            lane.add(request)
        return accepted

    async def unload(self, who: Principal, run_id: str) -> None:
        """End a run: it takes no more operations."""
        lane = self.run(who, run_id)
        lane.run.unloaded = True
        await self.journal.do(partial(records.set_unloaded, run=run_id))
        lane.release()

    def run(self, who: Principal, run_id: str) -> RunLane:
        """Return the lane of a run of WHO's."""
        lane = self.runs.get(run_id)
        if lane is None or not who.sees(lane.run.owner):
            raise NotFound(f"There is no training run `{run_id[:200]}`")
        return lane

    # Samplers

    async def create_sampler(self, who: Principal, body: bytes) -> Sampler:
        """Open a sampling session on a base model or on saved weights."""
        fields = parse_body(CreateSamplingSessionRequest, body)
        check_number("sampling_session_seq_id", fields.sampling_session_seq_id)
        session = self.session(who, fields.session_id)
        weights = shape = None
        base_model = fields.base_model
        if fields.model_path is not None:
            found = await self.checkpoint(who, fields.model_path)
            self.check_base(found)
            if base_model not in (None, found.base_model):
                raise Refused(f"The checkpoint {found.path} is of {found.base_model}")
            base_model = found.base_model
            weights = str(self.store.checkpoint(parse_path(found.path)))
            shape = shape_of(found)
        if base_model is None:
            raise Refused("Name a `base_model` or a `model_path` to sample from")
        served = self.served(base_model)
        await asyncio.to_thread(self.residency.admit, served, shape, sampling=True)
        number = fields.sampling_session_seq_id
        sampler = new_sampler(session, number, served, fields.model_path, weights)
        if (known := self.samplers.get(sampler.id)) is not None:
            if (known.base_model, known.model_path) != (sampler.base_model, sampler.model_path):
                raise Refused(f"The sampling session {sampler.id} was opened on something else")
            return known
        await self.journal.do(lambda db: records.replace(db, sampler))
        self.samplers[sampler.id] = sampler
        return sampler

    def sampler(self, who: Principal, sampler_id: str) -> Sampler:
        """Return a sampler of WHO's."""
        sampler = self.samplers.get(sampler_id)
        if sampler is None or not who.sees(sampler.owner):
            raise NotFound(f"There is no sampler `{sampler_id[:200]}`")
        return sampler

    async def sample(self, who: Principal, body: bytes) -> tuple[Request, list[str]]:
        """Accept a sampling request; return it with the ids of the sequences it will draw."""
        fields = parse(body)
        seq = fields.seq_id
        if fields.sampling_session_id is None or seq is None or not 0 <= seq < MAX_SEQ:
            raise Refused("A sample needs a `sampling_session_id` and a `seq_id`")
        sampler = self.sampler(who, fields.sampling_session_id)
        self.check_base(sampler)
        plan(fields, self.served(sampler.base_model), seed=0)
        request = new_request(sampler.id, seq, "sample", sampler.owner, body)
        request.body = with_seed(body, secrets.randbits(62))
        accepted = await self._accept(request)
        sampler.used = time.time()
        if accepted is request:
            self.sample_lane(sampler).add(request)
        return accepted, [f"{request.id}:{i}" for i in range(fields.num_samples)]

    # Promises and checkpoints

    async def retrieve(self, who: Principal, request_id: str) -> Request:
        """Return a request with its answer, or still queued after the time a poll may take."""
        with self.waiter(request_id) as waiter:
            request = await self._find(who, request_id)
            try:
                if request.state == "queued" and await waiter.wait(self.settings.hold_seconds):
                    request = await self._find(who, request_id)
            finally:
                self.asked_at[request_id] = time.time()
        if request.state == "dropped":
            raise Gone(f"Nobody asked for `{request_id[:200]}` any more, so it was given up")
        if request.state != "queued" and request.result is None:
            raise Gone(f"The answer to `{request_id[:200]}` is no longer kept")
        if request.state != "queued":
            self.read_at.setdefault(request_id, time.time())
        return request

    async def cancel(self, who: Principal, request_id: str) -> None:
        """Give up a sample that its client no longer wants; one that is done stays done."""
        request = await self._find(who, request_id)
        if request.kind != "sample":
            raise Refused("Only samples can be cancelled: what trains a run comes in its turn")
        sampler = self.samplers.get(request.lane)
        if request.state == "queued" and sampler is not None:
            self.sample_lane(sampler).drop(request_id)

    async def checkpoint(self, who: Principal, path: str) -> Checkpoint:
        """Return a checkpoint that WHO may read: an own one, or a published one."""
        name = str(parse_path(path))
        found = await self.journal.do(lambda db: records.find_checkpoint(db, name))
        expired = found is not None and found.expires is not None and found.expires <= time.time()
        if found is None or expired or not (found.public or who.sees(found.owner)):
            raise NotFound(f"There is no checkpoint `{name[:300]}`")
        return found

    async def remove_checkpoint(self, found: Checkpoint) -> None:
        """Forget a checkpoint, and delete its files."""
        await self.journal.do(lambda db: records.delete_checkpoint(db, found.path))
        shutil.rmtree(self.store.checkpoint(parse_path(found.path)), ignore_errors=True)

    def served(self, model_id: str) -> ServedModel:
        """Return the base model MODEL_ID, or say what is served instead."""
        if model_id not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise Refused(f"This engine has no weights of `{model_id[:200]}`; it serves {known}")
        return self.models[model_id]

    async def _find(self, who: Principal, request_id: str) -> Request:
        request = await self.journal.do(lambda db: records.find_request(db, request_id))
        if request is None or not who.sees(request.owner):
            raise NotFound(f"There is no request `{request_id[:200]}`")
        return request

    async def _accept(
        self, request: Request, also: Callable[[sqlite3.Connection], None] | None = None
    ) -> Request:
        """Journal REQUEST and return it, or return the one that was accepted before it."""

        def write(db: sqlite3.Connection) -> Request:
            known = records.find_request(db, request.id)
            if known is not None and known.state != "dropped":
                return known
            if also is not None:
                also(db)
            records.replace(db, request)
            return request

        accepted = await self.journal.do(write)
        if accepted.digest != request.digest:
            raise Refused(
                f"The sequence number {request.seq} of {request.lane} was used for another request"
            )
        return accepted

    async def _start_run(self, run: Run, kind: str, body: bytes) -> Request:
        request = new_request(run.id, 0, kind, run.owner, body)
        accepted = await self._accept(request, also=lambda db: records.insert(db, run))
        if accepted is request:
            self.add_run(run, set()).add(request)
        return accepted

    def add_run(self, run: Run, finished: set[int]) -> RunLane:
        """Give RUN its turns; FINISHED are the numbers of its operations that have ended."""
        lane = RunLane(self, run, finished)
        self.runs[run.id] = lane
        self.worker.add(lane)
        return lane

    def sample_lane(self, sampler: Sampler) -> SampleLane:
        """Return the lane of all samples on the base model of SAMPLER, opened now if need be."""
        name = sampler.base_model
        if name not in self.sample_lanes:
            self.sample_lanes[name] = SampleLane(self, name)
            self.worker.add(self.sample_lanes[name])
        return self.sample_lanes[name]
