"""The protobuf messages of Tinker's protocol: forward_backward requests and results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import zstandard
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as pb

from dreadnode_engine.errors import OperationFailed, Refused

MEDIA_TYPE = "application/x-protobuf"
MAX_BODY = 256 * 2**20
"""The largest request body in bytes, before and after decompression."""
MAX_SPARSE = 2**27
"""Numbers, zeros included, that the sparse inputs of one request may have."""

Floats = NDArray[np.float32]
Array = Floats | NDArray[np.int64]

_DTYPES: Mapping[int, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_INT32: np.dtype("<i4"),
}


@dataclass(frozen=True)
class Datum:
    """One training sequence: TOKENS of shape (length,), and arrays of shape (length, ...)."""

    tokens: NDArray[np.int64]
    inputs: Mapping[str, Array]


@dataclass(frozen=True)
class ForwardBackward:
    """A forward or forward-backward request, decoded."""

    loss_fn: str
    config: Mapping[str, float | str]
    forward_only: bool
    data: Sequence[Datum]


@dataclass
class Logprobs:
    """The result of a forward pass: log-probabilities and losses of the targets of each datum."""

    logprobs: list[Floats]
    losses: list[Floats]
    metrics: dict[str, float] = field(default_factory=dict)


def parse_forward_backward(body: bytes, encoding: str | None) -> pb.ForwardBackwardRequest:
    """Parse the body of a forward_backward request, or raise `Refused`."""
    if encoding == "zstd":
        body = _decompressed(body)
    elif encoding not in (None, "identity"):
        raise Refused(f"The content encoding `{encoding}` is not supported; send zstd or none")
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise Refused("The body is not a ForwardBackwardRequest in protobuf") from None
    if not message.model_id:
        raise Refused("The request names no model_id")
    return message


def _decompressed(body: bytes) -> bytes:
    """Decompress BODY, or refuse one that would be too large."""
    try:
        # The size in the frame is allocated first, and it may be terabytes.
        if zstandard.frame_content_size(body) > MAX_BODY:
            raise Refused(f"The body is larger than {MAX_BODY // 2**20} MiB; send smaller batches")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_BODY)
    except zstandard.ZstdError:
        raise Refused("The body is not valid zstd") from None


def decode_forward_backward(body: bytes) -> ForwardBackward:
    """Decode a request, or raise `OperationFailed`."""
    message = pb.ForwardBackwardRequest.FromString(body)
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for name, value in message.loss_fn_config_v2.items():
        config[name] = value.text if value.WhichOneof("value") == "text" else value.number
    _check_sparse(message)
    return ForwardBackward(
        loss_fn=message.loss_fn,
        config=config,
        forward_only=message.forward_only,
        data=[_datum(index, datum) for index, datum in enumerate(message.data)],
    )


def _check_sparse(message: pb.ForwardBackwardRequest) -> None:
    """Refuse a small request whose sparse inputs would fill the memory."""
    inputs = [tensor for datum in message.data for tensor in datum.loss_fn_inputs.values()]
    sparse = [tensor for tensor in inputs if tensor.WhichOneof("encoding") == "sparse_csr"]
    if (numbers := sum(abs(math.prod(t.shape)) for t in sparse)) > MAX_SPARSE:
        raise OperationFailed(
            f"The sparse inputs of the request have {numbers} numbers, zeros included, and at most "
            f"{MAX_SPARSE} are allowed; send fewer data or fewer targets per token"
        )


def _datum(index: int, message: pb.Datum) -> Datum:
    chunks = []
    for chunk in message.model_input:
        kind = chunk.WhichOneof("chunk")
        if kind != "encoded_text":
            raise OperationFailed(
                f"Datum {index} has a chunk of type {kind}; this engine trains on text only"
            )
        raw = chunk.encoded_text.tokens
        if len(raw) % 4:
            raise OperationFailed(f"Datum {index} has tokens that are not 32-bit integers")
        chunks.append(np.frombuffer(raw, dtype="<i4"))
    tokens = np.concatenate(chunks) if chunks else np.zeros(0, dtype="<i4")
    inputs = {name: _array(index, name, t) for name, t in message.loss_fn_inputs.items()}
    return Datum(tokens.astype(np.int64), inputs)


def _array(index: int, name: str, message: pb.Tensor) -> Array:
    where = f"The input `{name}` of datum {index}"
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise OperationFailed(f"{where} must be float32 or int64")
    try:
        if message.WhichOneof("encoding") == "sparse_csr":
            flat = _dense(message, dtype)
        else:
            flat = np.frombuffer(message.dense, dtype=dtype)
        shaped = flat.reshape(tuple(message.shape)) if message.shape else flat
    except (ValueError, IndexError):
        raise OperationFailed(f"{where} does not fill its shape") from None
    return shaped.astype(np.float32) if dtype.kind == "f" else shaped.astype(np.int64)


def _dense(message: pb.Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a matrix that was sent as compressed sparse rows."""
    rows, columns = message.shape
    if min(rows, columns) < 0:
        raise ValueError("malformed")
    csr = message.sparse_csr
    starts = np.frombuffer(csr.crow_indices, dtype="<i8")
    places = np.frombuffer(csr.col_indices, dtype="<i8")
    values = np.frombuffer(csr.values, dtype=dtype)
    if not rows_fit(starts, rows, len(values)) or len(places) != len(values) or (places < 0).any():
        raise ValueError("malformed")
    dense = np.zeros((rows, columns), dtype=dtype)
    dense[np.repeat(np.arange(rows), np.diff(starts)), places] = values
    return dense


def rows_fit(starts: NDArray[np.int64], rows: int, entries: int) -> bool:
    """Whether STARTS divide ENTRIES into ROWS, as compressed sparse rows are divided."""
    whole = len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == entries
    return bool(whole and (np.diff(starts) >= 0).all())


def encode_logprobs(output: Logprobs) -> bytes:
    """Encode the result of a forward_backward request."""
    pairs = zip(output.logprobs, output.losses, strict=True)
    # A record has one trailing shape, so a batch with [T] and [T, K] needs several.
    groups = groupby(pairs, key=lambda pair: pair[0].shape[1:])
    return pb.ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[_record(list(group), trailing) for trailing, group in groups],
        metrics=output.metrics,
    ).SerializeToString()


def _record(pairs: list[tuple[Floats, Floats]], trailing: tuple[int, ...]) -> pb.ArrayRecord:
    record = pb.ArrayRecord(type_tag="ArrayRecord", num_datums=len(pairs))
    logprobs, losses = zip(*pairs, strict=True)
    for name, arrays in (("logprobs", logprobs), ("elementwise_loss", losses)):
        ends = np.cumsum([0, *(array.nbytes for array in arrays)], dtype="<i8")
        record.fields[name].CopyFrom(
            pb.BatchedTensor(
                data=b"".join(array.astype("<f4").tobytes() for array in arrays),
                offsets=ends.tobytes(),
                dtype=pb.DTYPE_FLOAT32,
                trailing_shape=trailing,
            )
        )
    return record
