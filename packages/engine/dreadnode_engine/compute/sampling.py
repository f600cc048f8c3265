"""Sampling requests, checked, and the sampling of one token.

Log-probabilities are those of the model, before temperature, top-k and top-p, so they equal what
the trainer computes for the same tokens. The random number for a token depends only on the seed,
the number of the sample and the position.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tinker.types import SampleRequest
from torch import Tensor

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.errors import Refused
from dreadnode_engine.protocol.protobuf import rows_fit
from dreadnode_engine.protocol.validation import describe_error

MAX_SAMPLES = 1024
MAX_TOPK = 128


@dataclass(frozen=True)
class Plan:
    """A checked sampling request.

    Attributes:
        prompt: token ids, at least one.
        samples: number of sequences to sample.
        max_tokens: longest sequence in tokens.
        seed: of all random numbers; chosen by the engine if the client sends none.
        temperature, top_k, top_p: the distribution; top_k 0 means no limit.
        stop: None stops at the model's end-of-text, else strings or token ids that end a sequence.
        prompt_logprobs: number of the last prompt tokens to score.
        topk_prompt, topk_sample: number of the most likely tokens to report per position.
        targets: token ids to score at each prompt position after the first; -1 means none.
        alternatives: tokens to sample at each prompt position after the first.
    """

    prompt: NDArray[np.int64]
    samples: int
    max_tokens: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    stop: tuple[str, ...] | tuple[int, ...] | None
    prompt_logprobs: int
    topk_prompt: int
    topk_sample: int
    targets: "Targets | None"
    alternatives: int

    @property
    def scores_prompt(self) -> bool:
        """Whether logits are needed at prompt positions before the last."""
        wanted = self.prompt_logprobs or self.topk_prompt or self.alternatives
        return bool(wanted) or self.targets is not None


@dataclass(frozen=True)
class Targets:
    """Tokens to score at prompt positions: dense [length - 1, K], or the same as sparse rows."""

    tokens: NDArray[np.int64]
    shape: tuple[int, int]
    starts: NDArray[np.int64] | None
    columns: NDArray[np.int64] | None

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row that each entry of `tokens` belongs to."""
        if self.starts is None:
            return np.repeat(np.arange(self.shape[0]), self.shape[1])
        return np.repeat(np.arange(self.shape[0]), np.diff(self.starts))


def parse(body: bytes) -> SampleRequest:
    """Parse the JSON body of a sampling request, or raise `Refused`."""
    try:
        return SampleRequest.model_validate_json(body)
    except ValidationError as error:
        raise Refused(describe_error(error)) from None


def plan(request: SampleRequest, model: ServedModel, seed: int) -> Plan:
    """Check REQUEST against MODEL, or raise `Refused`; SEED is used if it has none."""
    if request.record_stability_info:
        raise Refused("Leave out `record_stability_info`: this engine does not record it")
    prompt = _prompt(request, model)
    params = request.sampling_params
    room = model.context - len(prompt) + 1
    max_tokens = room if params.max_tokens is None else params.max_tokens
    if room < 1 or max_tokens > room:
        raise Refused(
            f"A prompt of {len(prompt)} tokens and max_tokens of {max_tokens} exceed the "
            f"context of {model.context} tokens of {model.id}"
        )
    _between("max_tokens", max_tokens, 1, room)
    _between("num_samples", request.num_samples, 1, MAX_SAMPLES)
    _between("topk_prompt_logprobs", request.topk_prompt_logprobs, 0, MAX_TOPK)
    _between("topk_sample_logprobs", request.topk_sample_logprobs, 0, MAX_TOPK)
    _between("prompt_alt_tokens_k", request.prompt_alt_tokens_k, 0, MAX_TOPK)
    _between("temperature", params.temperature, 0.0, 1e3)
    if params.top_k != -1:
        _between("top_k", params.top_k, 1, model.vocabulary)
    if not 0 < params.top_p <= 1:
        raise Refused(f"`top_p` must be above 0 and at most 1, not {params.top_p}")
    return Plan(
        prompt=prompt,
        samples=request.num_samples,
        max_tokens=max_tokens,
        seed=seed if params.seed is None else params.seed % 2**63,
        temperature=params.temperature,
        top_k=0 if params.top_k == -1 else params.top_k,
        top_p=params.top_p,
        stop=_stop(params.stop, model),
        prompt_logprobs=_last_n(request, len(prompt)),
        topk_prompt=request.topk_prompt_logprobs,
        topk_sample=request.topk_sample_logprobs,
        targets=_targets(request, len(prompt), model),
        alternatives=request.prompt_alt_tokens_k,
    )


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Refused(f"`{name}` must be between {low} and {high}, not {value}")


def _prompt(request: SampleRequest, model: ServedModel) -> NDArray[np.int64]:
    tokens: list[int] = []
    for chunk in request.prompt.chunks:
        if chunk.type != "encoded_text":
            raise Refused(f"The prompt has a chunk of {chunk.type}; this engine takes text only")
        tokens.extend(chunk.tokens)
    if not tokens:
        raise Refused("The prompt is empty; send at least one token")
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= model.vocabulary:
        wrong = low if low < 0 else high
        raise Refused(
            f"The prompt has the token id {wrong}; the largest id of {model.id} is "
            f"{model.vocabulary - 1}"
        )
    return np.array(tokens, dtype=np.int64)


def _stop(
    stop: str | Sequence[str] | Sequence[int] | None, model: ServedModel
) -> tuple[str, ...] | tuple[int, ...] | None:
    if stop is None:
        return None
    if isinstance(stop, str):
        stop = [stop]
    texts = tuple(item for item in stop if isinstance(item, str))
    ids = tuple(item for item in stop if isinstance(item, int))
    if "" in texts:
        raise Refused("A stop string is empty; remove it")
    if any(not 0 <= token < model.vocabulary for token in ids):
        raise Refused(f"A stop token is not a token id of {model.id}")
    return texts or ids


def _last_n(request: SampleRequest, length: int) -> int:
    last = request.prompt_logprobs_last_n
    if last is None:
        return length if request.prompt_logprobs or request.topk_prompt_logprobs else 0
    if not request.prompt_logprobs:
        raise Refused("`prompt_logprobs_last_n` needs `prompt_logprobs`")
    _between("prompt_logprobs_last_n", last, 1, length - 1)
    return last


def _targets(request: SampleRequest, length: int, model: ServedModel) -> Targets | None:
    data = request.target_prompt_logprobs
    if data is None:
        return None
    where = "`target_prompt_logprobs`"
    shape = tuple(data.shape or ())
    if data.dtype != "int64" or len(shape) != 2 or shape[0] != length - 1 or shape[1] < 1:
        raise Refused(f"{where} must be int64 of shape {length - 1} x K, one row per prompt token")
    tokens = np.asarray(data.data, dtype=np.int64).reshape(-1)
    starts = columns = None
    if data.sparse_crow_indices is not None:
        starts = np.asarray(data.sparse_crow_indices, dtype=np.int64)
        columns = np.asarray(data.sparse_col_indices, dtype=np.int64)
        if not rows_fit(starts, shape[0], len(tokens)) or len(columns) != len(tokens):
            raise Refused(f"{where} is not well-formed as compressed sparse rows")
    elif len(tokens) != shape[0] * shape[1]:
        raise Refused(f"{where} does not fill its shape")
    if tokens.size and (tokens.min() < -1 or tokens.max() >= model.vocabulary):
        raise Refused(f"{where} has a token id that {model.id} does not have")
    return Targets(tokens, (shape[0], shape[1]), starts, columns)


class TokenSampler:
    """Samples the tokens of one sequence: the same for the same seed, number and logits.

    `whole` is true if any token of the vocabulary may be sampled.
    """

    def __init__(self, plan: Plan, sample: int) -> None:
        self.plan = plan
        self.whole = plan.temperature > 0 and not plan.top_k and plan.top_p == 1
        # A counter-based generator: its stream depends only on the key.
        self._random = np.random.Generator(np.random.Philox(key=[plan.seed, sample]))

    def sample_many(self, logprobs: Tensor, count: int) -> Tensor:
        """Sample COUNT tokens from LOGPROBS (vocabulary,), independently."""
        if self.plan.temperature == 0:
            return logprobs.argmax().expand(count)
        uniform = torch.from_numpy(self.uniform(count)).to(logprobs.device)
        weights, ids = self._filtered(logprobs)
        places = _places(weights, uniform)
        return places if ids is None else ids[places]

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return the next COUNT random numbers from 0 to 1."""
        return self._random.random(count)

    def _filtered(self, logprobs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return unnormalized weights, and their token ids unless these are all ids in order."""
        temperature = torch.tensor(self.plan.temperature)
        weights = _weights(logprobs, temperature.to(logprobs.device))
        if not self.plan.top_k and self.plan.top_p == 1:
            return weights, None
        count = min(self.plan.top_k or len(weights), len(weights))
        weights, ids = weights.topk(count)
        if self.plan.top_p < 1:
            before = weights.cumsum(0) - weights
            weights = torch.where(before < self.plan.top_p * weights.sum(), weights, 0.0)
        return weights, ids


def sample_rows(
    samplers: Sequence[TokenSampler], logprobs: Tensor
) -> tuple[list[int], list[float]]:
    """Sample a token for each row of LOGPROBS (rows, vocabulary).

    Returns:
        The tokens and their log-probabilities; NaN for a row whose logits are NaN.
    """
    tokens = torch.zeros(len(samplers), dtype=torch.int64, device=logprobs.device)
    whole = [row for row, sampler in enumerate(samplers) if sampler.whole]
    # 16 rows at once: on a GPU a small step costs as much as a large one.
    for part in (whole[start : start + 16] for start in range(0, len(whole), 16)):
        picked = [samplers[row] for row in part]
        uniform = torch.from_numpy(np.stack([sampler.uniform(1) for sampler in picked]))
        temperatures = torch.tensor([[sampler.plan.temperature] for sampler in picked])
        weights = _weights(logprobs[part], temperatures.to(logprobs.device))
        tokens[part] = _places(weights, uniform.to(logprobs.device))[:, 0]
    for row, sampler in enumerate(samplers):
        if not sampler.whole:
            tokens[row] = sampler.sample_many(logprobs[row], 1)[0]
    scores = logprobs.gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), scores.tolist()


def _weights(logprobs: Tensor, temperature: Tensor) -> Tensor:
    """Return weights of LOGPROBS (..., vocabulary) at TEMPERATURE; the largest is 1."""
    # Below this, every other token has weight 0, and float32 would underflow.
    temperature = temperature.clamp(min=1e-30)
    # Subtract the largest before dividing, or all could become minus infinity.
    return torch.exp((logprobs - logprobs.amax(-1, keepdim=True)) / temperature)


def _places(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the index that each of UNIFORM (..., n) selects among WEIGHTS (..., vocabulary)."""
    sums = weights.double().cumsum(-1)
    total = sums[..., -1:].contiguous()
    places = torch.searchsorted(sums, uniform * total, right=True)
    # Rounding may select the end: then take the last index with a weight. NaN weights would select
    # beyond it, which is a fatal error on a GPU.
    last = torch.searchsorted(sums, total).clamp(max=sums.shape[-1] - 1)
    return torch.minimum(places, last)


class EndsText(Protocol):
    """What a stop condition needs of a base model."""

    eos: frozenset[int]
    tokenizer: Any


class StopCondition:
    """Ends a sequence at end-of-text, at given tokens, or at given strings."""

    def __init__(self, plan: Plan, base: EndsText) -> None:
        stop = base.eos if plan.stop is None else plan.stop
        self._ids = frozenset(item for item in stop if isinstance(item, int))
        self._texts = tuple(item for item in stop if isinstance(item, str))
        self._tokenizer = base.tokenizer
        # A token may be one byte of a character, so look at as many tokens as the string has bytes.
        self._window = max((len(text.encode()) for text in self._texts), default=0) + 4

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether the last of TOKENS ends the sequence."""
        if tokens[-1] in self._ids:
            return True
        if not self._texts:
            return False
        tail = self._tokenizer.decode(tokens[-self._window :], skip_special_tokens=False)
        return any(text in tail for text in self._texts)


def with_seed(body: bytes, seed: int) -> bytes:
    """Return BODY with SEED if it has none, so that sampling after a kill repeats the tokens."""
    fields: dict[str, Any] = json.loads(body)
    params = fields["sampling_params"]
    if params.get("seed") is None:
        params["seed"] = seed
    return json.dumps(fields).encode()


def top_logprobs(logprobs: Tensor, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return ids and log-probabilities (rows, K) of the most likely tokens of LOGPROBS."""
    values, ids = logprobs.topk(min(k, logprobs.shape[-1]))
    missing = k - ids.shape[-1]
    pad = ((0, 0),) * (ids.ndim - 1) + ((0, missing),)
    return (
        np.pad(ids.cpu().numpy().astype(np.int32), pad),
        np.pad(values.float().cpu().numpy(), pad, constant_values=-99999.0),
    )
