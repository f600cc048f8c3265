"""Forward, backward and optimizer step of one run.

The result depends only on the request and the run's state: how a request is split into
micro-batches depends on its own sequences, and requests of different runs are never merged. So a
replay of the journal gives the same bits.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dreadnode_engine.compute.losses import Config, Loss, find_loss
from dreadnode_engine.compute.mixed_precision import fast_logits
from dreadnode_engine.compute.network import Network
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.protocol.protobuf import Datum, ForwardBackward, Logprobs

LOGIT_ROWS = 512
"""Tokens whose logits exist at the same time: bounds the memory of a large vocabulary."""
CACHED_ROWS = 32
"""Tokens whose logits are read and written several times in a row."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one request on a base model."""

    vocabulary: int
    context: int
    micro_batch_tokens: int = 2048


@dataclass(frozen=True)
class Example:
    """A checked datum: TOKENS and TARGETS int64, INPUTS float32 of the targets' shape."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    inputs: Mapping[str, NDArray[np.float32]]

    @property
    def columns(self) -> int:
        """How many targets each token has."""
        return self.targets.size // len(self.tokens)


@dataclass(frozen=True)
class Job:
    """A checked forward or forward-backward request."""

    loss: Loss
    config: Config
    forward_only: bool
    examples: Sequence[Example]


def check(request: ForwardBackward, limits: Limits) -> Job:
    """Check all of REQUEST before anything is computed, or raise `OperationFailed`."""
    loss, config = find_loss(request.loss_fn, request.config)
    if not request.data:
        raise OperationFailed("The request has no data; send at least one datum")
    examples = [_example(i, datum, loss, limits) for i, datum in enumerate(request.data)]
    return Job(loss, config, request.forward_only, examples)


def _example(index: int, datum: Datum, loss: Loss, limits: Limits) -> Example:
    where = f"datum {index}"
    length = len(datum.tokens)
    if not length:
        raise OperationFailed(f"The model input of {where} is empty")
    if length > limits.context:
        raise OperationFailed(
            f"The model input of {where} has {length} tokens; this model takes {limits.context}"
        )
    _check_ids(f"The model input of {where}", datum.tokens, limits.vocabulary)
    inputs = dict(datum.inputs)
    targets = inputs.pop("target_tokens", None)
    if targets is None:
        raise OperationFailed(f"The input `target_tokens` of {where} is missing")
    if targets.dtype != np.int64 or targets.ndim not in (1, 2) or len(targets) != length:
        raise OperationFailed(
            f"The input `target_tokens` of {where} must be {length} integers, one per token"
        )
    if targets.ndim == 2 and loss.inputs != ("weights",):
        raise OperationFailed(f"Only cross_entropy takes several targets per token, as {where} has")
    if targets.size == 0:
        raise OperationFailed(f"The input `target_tokens` of {where} is empty")
    _check_ids(f"The input `target_tokens` of {where}", targets, limits.vocabulary)
    if loss.inputs == ("weights",):
        inputs.setdefault("weights", np.ones(targets.shape, dtype=np.float32))
    elif (weights := inputs.pop("weights", None)) is not None:
        _check_redundant_weights(weights, inputs.get("advantages"), loss, where)
    if unknown := sorted(set(inputs) - set(loss.inputs)):
        raise OperationFailed(f"The loss does not read the input `{unknown[0]}` of {where}")
    checked = {}
    for name in loss.inputs:
        values = inputs.get(name)
        if values is None:
            raise OperationFailed(f"The input `{name}` of {where} is missing")
        if values.shape != targets.shape:
            raise OperationFailed(
                f"The input `{name}` of {where} has shape {_shape(values)}, "
                f"and `target_tokens` has {_shape(targets)}"
            )
        if not np.isfinite(values).all():
            raise OperationFailed(f"The input `{name}` of {where} has a value that is not finite")
        checked[name] = values.astype(np.float32)
    return Example(datum.tokens, targets.astype(np.int64), checked)


def _check_redundant_weights(
    weights: NDArray[Any], advantages: NDArray[Any] | None, loss: Loss, where: str
) -> None:
    """Refuse weights beside advantages unless they are 1 wherever the token counts."""
    counts = np.ones_like(weights) if loss.gain is None else advantages
    if counts is None or counts.shape != weights.shape or np.any((weights != 1) & (counts != 0)):
        raise OperationFailed(
            f"The loss does not read `weights`, and those of {where} are not 1 everywhere; "
            "multiply them into `advantages`"
        )


def _shape(array: NDArray[np.generic]) -> str:
    return " x ".join(str(size) for size in array.shape) or "none"


def _check_ids(where: str, ids: NDArray[np.generic], vocabulary: int) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise OperationFailed(
            f"{where} has the token id {wrong}; the largest id of this model is {vocabulary - 1}"
        )


def run_job(network: Network, job: Job, budget: int) -> Generator[None, None, Logprobs]:
    """Compute JOB and add gradients to the bound adapter; yield between micro-batches.

    The caller binds the adapter again after every yield: other runs may have computed.
    """
    logprobs: dict[int, NDArray[np.float32]] = {}
    losses: dict[int, NDArray[np.float32]] = {}
    sizes = [(len(example.tokens), example.columns) for example in job.examples]
    for batch in micro_batches(sizes, budget):
        examples = [job.examples[i] for i in batch]
        for i, (p, loss) in zip(batch, _micro_batch(network, job, examples), strict=True):
            logprobs[i], losses[i] = p, loss
        yield
    order = range(len(job.examples))
    total = float(sum(losses[i].sum(dtype=np.float64) for i in order))
    if not np.isfinite(total):
        raise OperationFailed("The loss is not finite; the request had no effect")
    tokens = sum(len(example.tokens) for example in job.examples)
    return Logprobs(
        [logprobs[i] for i in order],
        [losses[i] for i in order],
        {"loss:sum": total, "num_tokens:sum": float(tokens)},
    )


def micro_batches(sizes: Sequence[tuple[int, int]], budget: int) -> Iterator[list[int]]:
    """Pack sequences into micro-batches of at most BUDGET tokens, or of one sequence.

    SIZES are (length, targets per token); the latter is the same within a micro-batch.
    """
    batch: list[int] = []
    # Longest first: the short ones fill up what is left of the budget at the end.
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i][1], -sizes[i][0])):
        tokens = sum(sizes[i][0] for i in batch)
        same = not batch or sizes[index][1] == sizes[batch[0]][1]
        if batch and (tokens + sizes[index][0] > budget or not same):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _micro_batch(
    network: Network, job: Job, examples: Sequence[Example]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Compute EXAMPLES packed into one row; yield log-probabilities and losses of each."""
    device = next(network.causal_lm.parameters()).device
    lengths = [len(example.tokens) for example in examples]
    tokens = torch.from_numpy(np.concatenate([example.tokens for example in examples]))
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.set_grad_enabled(not job.forward_only):
        hidden = network.packed_hidden(tokens.to(device), positions.to(device), lengths)
    targets = _stack([e.targets for e in examples]).to(device)
    inputs = {n: _stack([e.inputs[n] for e in examples]).to(device) for n in job.loss.inputs}
    p, loss, gradient = _head(network, job, hidden.detach(), targets, inputs)
    if gradient is not None and hidden.requires_grad:
        torch.autograd.backward(hidden, gradient.to(hidden.dtype))
    rows = zip(torch.split(p.cpu(), lengths), torch.split(loss.cpu(), lengths), strict=True)
    for example, (p_row, loss_row) in zip(examples, rows, strict=True):
        shape = example.targets.shape
        yield p_row.reshape(shape).numpy(), loss_row.reshape(shape).numpy()


def _stack(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    """Stack per-token arrays with equally many columns into one matrix."""
    return torch.from_numpy(np.concatenate([array.reshape(len(array), -1) for array in arrays]))


def _head(
    network: Network, job: Job, states: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Score TARGETS (tokens, columns) from hidden STATES (tokens, width), a slice at a time.

    Every loss is a sum over tokens, so the gradient of a slice of logits is known at once: it is
    propagated to the states, and the logits are freed. Tokens whose gain is zero, such as those of
    a prompt, are only scored.
    """
    p = torch.zeros(targets.shape, device=states.device)
    loss = torch.zeros_like(p)
    gain = torch.ones_like(loss) if job.loss.gain is None else inputs[job.loss.gain]
    live = (gain != 0).any(dim=-1) & (not job.forward_only)
    gradient = torch.zeros_like(states) if bool(live.any()) else None
    for wanted in (True, False):
        for rows in torch.split(torch.nonzero(live == wanted).flatten(), LOGIT_ROWS):
            part = states[rows].requires_grad_(wanted)
            with torch.set_grad_enabled(wanted), fast_logits(network.mixed):
                p_part = token_logprobs(network.logits(part), targets[rows])
                here = {name: values[rows] for name, values in inputs.items()}
                loss_part = job.loss.elementwise(p_part, here, job.config)
                if wanted:
                    torch.autograd.backward(loss_part.sum())
            p[rows], loss[rows] = p_part.detach(), loss_part.detach()
            if gradient is not None and part.grad is not None:
                gradient[rows] = part.grad
    return p, loss, gradient


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log-probabilities of TARGETS (tokens, columns) under LOGITS (tokens, vocabulary).

    The backward pass overwrites LOGITS with their gradient.
    """
    result: Tensor = _TokenLogprobs.apply(logits, targets)  # type: ignore[no-untyped-call]
    return result


class _TokenLogprobs(torch.autograd.Function):
    """`token_logprobs`, whose gradient takes no memory beside the logits.

    Another tensor as large as the logits costs more to allocate than to compute, so both passes
    take a few rows at a time, which stay in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        parts = [part.logsumexp(-1, keepdim=True) for part in torch.split(logits, CACHED_ROWS)]
        normalizer = torch.cat(parts)
        ctx.save_for_backward(logits, targets, normalizer)
        return logits.gather(-1, targets) - normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, *others = ctx.saved_tensors
        whole = (logits, *others, gradients[0])
        for part, targets, normalizer, gradient in zip(
            *(torch.split(tensor, CACHED_ROWS) for tensor in whole), strict=True
        ):
            part.sub_(normalizer).exp_().mul_(-gradient.sum(-1, keepdim=True))
            part.scatter_add_(-1, targets, gradient)
        return logits, None


def gradients_are_finite(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether every gradient is finite."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # One norm costs a fifth of asking each gradient, and is finite only if all of them are.
    if bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        return True
    return all(bool(gradient.isfinite().all()) for gradient in gradients)
