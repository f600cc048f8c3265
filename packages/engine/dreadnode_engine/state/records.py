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


@dataclass(kw_only=True)
class OnBase:
    """What was made on a base model, by an owner.

    Attributes:
        base_fingerprint: of the weights it was made on; None if an early version made it.
    """

    owner: str
    base_model: str
    created: float
    base_fingerprint: str | None = None


@dataclass(kw_only=True)
class WithAdapter(OnBase):
    """What has a LoRA adapter of a certain shape."""

    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool

    def shape(self) -> dict[str, Any]:
        """Return the fields that say which shape the adapter has."""
        names = ("rank", "train_mlp", "train_attn", "train_unembed")
        return {name: getattr(self, name) for name in names}

    def adapter(self) -> dict[str, Any]:
        """Return the fields that a copy of the adapter has too."""
        names = ("owner", "base_model", "base_fingerprint")
        return {name: getattr(self, name) for name in names} | self.shape()


@dataclass(kw_only=True)
class Run(WithAdapter):
    """One training run: a LoRA adapter on a base model.

    Attributes:
        snapshot: the sequence number after which the last snapshot was taken.
    """

    id: str
    session: str
    used: float
    seed: int
    user_metadata: str | None = None
    snapshot: int | None = None
    unloaded: bool = False


def new_run(
    session: Session, number: int, base: ServedModel, metadata: dict[str, Any] | None, **shape: Any
) -> Run:
    """Return run NUMBER of SESSION before its first operation; SHAPE is the adapter's shape."""
    return Run(**_opened(session, f"train:{number}", base), user_metadata=dump(metadata), **shape)


def _opened(session: Session, name: str, base: ServedModel) -> dict[str, Any]:
    """Return the fields of a run or sampler of SESSION that is opened now."""
    now = time.time()
    return {
        "id": f"{session.id}:{name}",
        "session": session.id,
        "owner": session.owner,
        "base_model": base.id,
        "created": now,
        "used": now,
        "base_fingerprint": base.fingerprint,
    }


def dump(metadata: dict[str, Any] | None) -> str | None:
    """Return METADATA as JSON, None if empty."""
    return json.dumps(metadata) if metadata else None


@dataclass(kw_only=True)
class Sampler(OnBase):
    """One sampling session: a base model, with the adapter in the folder `weights` if any.

    Attributes:
        inflight: whether the weights are replaced when its run saves inflight weights again.
    """

    id: str
    session: str
    used: float
    model_path: str | None = None
    weights: str | None = None
    run: str | None = None
    inflight: bool = False


def new_sampler(
    session: Session, number: int, base: ServedModel, model_path: str | None, weights: str | None
) -> Sampler:
    """Return sampler NUMBER of SESSION as it is when it is opened."""
    opened = _opened(session, f"sample:{number}", base)
    return Sampler(**opened, model_path=model_path, weights=weights)


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


@dataclass(kw_only=True)
class Checkpoint(WithAdapter):
    """Saved weights under a `tinker://` path, with the shape of the adapter."""

    path: str
    run: str
    kind: Kind
    name: str
    bytes: int
    expires: float | None = None
    public: bool = False
    user_metadata: str | None = None


@dataclass(kw_only=True)
class Upload(WithAdapter):
    """Weights of another program that a client uploads; finished, they become a checkpoint.

    Attributes:
        seed: initializes the layers that the adapter does not have.
    """

    id: str
    expires: float
    seed: int
