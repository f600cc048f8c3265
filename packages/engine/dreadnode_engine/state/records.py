"""The journal's records: sessions, runs, samplers, requests and checkpoints.

Times are seconds since the epoch.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dreadnode_engine.base_models.discovery import ServedModel

Kind = Literal["training", "sampler", "external"]
FOLDERS: Mapping[Kind, str] = {
    "training": "weights",
    "sampler": "sampler_weights",
    "external": "external_weights",
}
"""The middle segment of a checkpoint's path, by its kind."""


@dataclass
class Session:
    """One client process; it is alive while it sends heartbeats."""

    id: str
    owner: str
    created: float
    seen: float
    finished: float | None = None
    idempotency_key: str | None = None
    user_metadata: str | None = None
    display_name: str | None = None


@dataclass
class Run:
    """One training run: a LoRA adapter on a base model.

    Attributes:
        snapshot: the sequence number after which the last snapshot was taken.
        base_fingerprint: of the weights it was made on; None if an early version made it.
    """

    id: str
    session: str
    owner: str
    base_model: str
    created: float
    used: float
    rank: int
    seed: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    user_metadata: str | None = None
    snapshot: int | None = None
    unloaded: bool = False
    base_fingerprint: str | None = None


def new_run(
    session: Session, number: int, base: ServedModel, metadata: dict[str, Any] | None, **shape: Any
) -> Run:
    """Return run NUMBER of SESSION before its first operation; SHAPE is the adapter's shape."""
    now = time.time()
    return Run(
        id=f"{session.id}:train:{number}",
        session=session.id,
        owner=session.owner,
        base_model=base.id,
        created=now,
        used=now,
        user_metadata=dump(metadata),
        base_fingerprint=base.fingerprint,
        **shape,
    )


def dump(metadata: dict[str, Any] | None) -> str | None:
    """Return METADATA as JSON, None if empty."""
    return json.dumps(metadata) if metadata else None


@dataclass
class Sampler:
    """One sampling session: a base model, with the adapter in the folder `weights` if any.

    Attributes:
        inflight: whether the weights are replaced when its run saves inflight weights again.
    """

    id: str
    session: str
    owner: str
    base_model: str
    created: float
    used: float
    model_path: str | None = None
    weights: str | None = None
    run: str | None = None
    inflight: bool = False
    base_fingerprint: str | None = None


def new_sampler(
    session: Session, number: int, base: ServedModel, model_path: str | None, weights: str | None
) -> Sampler:
    """Return sampler NUMBER of SESSION as it is when it is opened."""
    now = time.time()
    return Sampler(
        id=f"{session.id}:sample:{number}",
        session=session.id,
        owner=session.owner,
        base_model=base.id,
        created=now,
        used=now,
        model_path=model_path,
        weights=weights,
        base_fingerprint=base.fingerprint,
    )


@dataclass
class Request:
    """One accepted request.

    Attributes:
        queue: the run or sampler that it belongs to.
        digest: distinguishes a repeated submit from another request with the same number.
        body: kept until no replay needs it; not held in memory while it waits.
        body_bytes: how large the body is.
        result: deleted after a while.
        lost: how often the engine ended unexpectedly while it computed this.
        started: when its computing began, known from its end on.
        work: how much was computed, as JSON.
    """

    id: str
    queue: str
    seq: int
    kind: str
    owner: str
    digest: bytes
    body: bytes | None
    state: str
    media: str | None = None
    result: bytes | None = None
    created: float = 0.0
    finished: float | None = None
    read: float | None = None
    lost: int = 0
    body_bytes: int = 0
    started: float | None = None
    work: str | None = None

    @property
    def payload(self) -> bytes:
        """The body of a request that holds it."""
        if self.body is None:
            raise ValueError(f"the body of {self.id} is not in memory")
        return self.body


def _unchanging(kind: str, body: bytes) -> bytes:
    """Return the part of BODY that is the same when the SDK repeats the request.

    The SDK numbers an unnamed sampler anew for each attempt to save for it.
    """
    if kind != "save_weights_for_sampler":
        return body
    try:
        fields = json.loads(body)
        fields.pop("sampling_session_seq_id", None)
        return json.dumps(fields, sort_keys=True).encode()
    except (ValueError, AttributeError):
        return body  # Refused elsewhere.


def new_request(queue: str, seq: int, kind: str, owner: str, body: bytes) -> Request:
    """Return a request as it is when it is accepted."""
    digest = hashlib.sha256(kind.encode() + b"\0" + _unchanging(kind, body)).digest()
    return Request(
        id=f"{queue}:{seq}",
        queue=queue,
        seq=seq,
        kind=kind,
        owner=owner,
        digest=digest,
        body=body,
        body_bytes=len(body),
        state="queued",
        created=time.time(),
    )


@dataclass
class Checkpoint:
    """Saved weights under a `tinker://` path, with the shape of the adapter."""

    path: str
    run: str
    owner: str
    kind: Kind
    name: str
    created: float
    bytes: int
    base_model: str
    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    expires: float | None = None
    public: bool = False
    user_metadata: str | None = None
    base_fingerprint: str | None = None


@dataclass
class Upload:
    """Weights of another program that a client uploads; finished, they become a checkpoint.

    Attributes:
        seed: initializes the layers that the adapter does not have.
    """

    id: str
    owner: str
    base_model: str
    created: float
    expires: float
    rank: int
    seed: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    base_fingerprint: str | None = None
