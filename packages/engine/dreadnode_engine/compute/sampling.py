"""What a sampling request asks for, checked; and how one token is drawn.

Log-probabilities are always those of the model itself, before temperature, top-k and top-p, so
that they equal what the trainer computes for the same tokens. A draw depends on the seed, the
number of the sample and the position alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tinker.types import SampleRequest
from torch import Tensor

from dreadnode_engine.compute.base_models import LoadedBase
from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.errors import Refused
from dreadnode_engine.http.protobuf import rows_fit
from dreadnode_engine.http.validation import explain

MAX_SAMPLES = 1024
MAX_TOPK = 128


@dataclass(frozen=True)
class Plan:
    """A checked sampling request.

    Attributes:
        prompt: token ids, at least one.
        samples: how many sequences to draw.
        max_tokens: how long each may become.
        seed: what all draws depend on; chosen when the client gave none.
        temperature, top_k, top_p: the distribution; top_k is 0 for no limit.
        stop: None to stop at the model's own end, else texts or token ids that end a sequence.
        prompt_logprobs: how many of the last prompt tokens to score; 0 for none.
        topk_prompt, topk_sample: how many of the likeliest tokens to report per position.
        targets: token ids to score at each prompt position after the first, -1 for none.
        alternatives: draws to make at each prompt position after the first.
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
        raise Refused(explain(error)) from None


def plan(request: SampleRequest, model: ServedModel, seed: int) -> Plan:
    """Check REQUEST against MODEL, or raise `Refused`; SEED is used if it names none."""
    if request.record_stability_info:
        raise Refused("This engine records no stability information; leave it out")
    prompt = _prompt(request, model)
    params = request.sampling_params
    room = model.context - len(prompt) + 1
    max_tokens = room if params.max_tokens is None else params.max_tokens
    if room < 1 or max_tokens > room:
        raise Refused(
            f"A prompt of {len(prompt)} tokens and max_tokens of {max_tokens} do not fit into "
            f"the context of {model.context} tokens of {model.id}"
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
            raise Refused(f"The prompt holds a chunk of {chunk.type}; this engine takes text")
        tokens.extend(chunk.tokens)
    if not tokens:
        raise Refused("The prompt is empty; send at least one token")
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= model.vocabulary:
        wrong = low if low < 0 else high
        raise Refused(
            f"The prompt holds the token id {wrong}, and the ids of {model.id} end at "
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
        raise Refused("A stop text is empty; it would end every sample at once")
    if any(not 0 <= token < model.vocabulary for token in ids):
        raise Refused(f"A stop token is not one of the ids of {model.id}")
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
        raise Refused(f"{where} holds a token id that {model.id} does not have")
    return Targets(tokens, (shape[0], shape[1]), starts, columns)


class Drawer:
    """Draws the tokens of one sample: the same ones for the same seed, sample and logits.

    `whole` says whether any token of the vocabulary may be drawn, at some temperature.
    """

    def __init__(self, plan: Plan, sample: int) -> None:
        self.plan = plan
        self.whole = plan.temperature > 0 and not plan.top_k and plan.top_p == 1
        # A counter-based generator: its stream is decided by the key, not by who drew before.
        self._random = np.random.Generator(np.random.Philox(key=[plan.seed, sample]))

    def draws(self, logprobs: Tensor, count: int) -> Tensor:
        """Draw COUNT tokens from LOGPROBS, independently and with replacement."""
        if self.plan.temperature == 0:
            return logprobs.argmax().expand(count)
        uniform = torch.from_numpy(self.uniform(count)).to(logprobs.device)
        weights, ids = self._filtered(logprobs)
        places = _places(weights, uniform)
        return places if ids is None else ids[places]

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return the next COUNT numbers between 0 and 1 of this sample."""
        return self._random.random(count)

    def _filtered(self, logprobs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return unnormalized weights, and the token ids they are of if not all in order."""
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


def draw_rows(drawers: Sequence[Drawer], logprobs: Tensor) -> tuple[list[int], list[float]]:
    """Draw a token for each row of LOGPROBS (rows, vocabulary); return them and their scores.

    The score of a row whose logits are not numbers is NaN, whatever token it gets.
    """
    tokens = torch.zeros(len(drawers), dtype=torch.int64, device=logprobs.device)
    whole = [row for row, drawer in enumerate(drawers) if drawer.whole]
    # All rows at once, because on a GPU each small step costs as much as a large one.
    for part in (whole[start : start + 16] for start in range(0, len(whole), 16)):
        picked = [drawers[row] for row in part]
        uniform = torch.from_numpy(np.stack([drawer.uniform(1) for drawer in picked]))
        temperatures = torch.tensor([[drawer.plan.temperature] for drawer in picked])
        weights = _weights(logprobs[part], temperatures.to(logprobs.device))
        tokens[part] = _places(weights, uniform.to(logprobs.device))[:, 0]
    for row, drawer in enumerate(drawers):
        if not drawer.whole:
            tokens[row] = drawer.draws(logprobs[row], 1)[0]
    scores = logprobs.gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), scores.tolist()


def _weights(logprobs: Tensor, temperature: Tensor) -> Tensor:
    """Return what LOGPROBS (..., vocabulary) weigh at a TEMPERATURE above 0; the likeliest is 1."""
    # From there on down, all but the likeliest weigh nothing, and float32 ends soon after.
    temperature = temperature.clamp(min=1e-30)
    # The largest goes first: divided before, all of them could be minus infinity.
    return torch.exp((logprobs - logprobs.amax(-1, keepdim=True)) / temperature)


def _places(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return where each of UNIFORM (..., draws) falls among WEIGHTS (..., places)."""
    sums = weights.double().cumsum(-1)
    total = sums[..., -1:].contiguous()
    places = torch.searchsorted(sums, uniform * total, right=True)
    # Rounding can carry a number up to the end: then the last place of any weight it is. Weights
    # that are not numbers would carry it beyond, where a GPU stops for good.
    last = torch.searchsorted(sums, total).clamp(max=sums.shape[-1] - 1)
    return torch.minimum(places, last)


class Stopper:
    """Decides when a sequence ends: at the model's own end, at given tokens, or at given texts."""

    def __init__(self, plan: Plan, base: LoadedBase) -> None:
        stop = base.eos if plan.stop is None else plan.stop
        self._ids = frozenset(item for item in stop if isinstance(item, int))
        self._texts = tuple(item for item in stop if isinstance(item, str))
        self._tokenizer = base.tokenizer
        # A token may be a part of a character, so as many tokens as the text has bytes can matter.
        self._window = max((len(text.encode()) for text in self._texts), default=0) + 4

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the last of TOKENS ends the sequence."""
        if tokens[-1] in self._ids:
            return True
        if not self._texts:
            return False
        tail = self._tokenizer.decode(tokens[-self._window :], skip_special_tokens=False)
        return any(text in tail for text in self._texts)


def with_seed(body: bytes, seed: int) -> bytes:
    """Return BODY with SEED written in, so that drawing again after a kill draws the same."""
    fields: dict[str, Any] = json.loads(body)
    params = fields["sampling_params"]
    if params.get("seed") is None:
        params["seed"] = seed
    return json.dumps(fields).encode()


def top_logprobs(logprobs: Tensor, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return ids and log-probabilities of the K likeliest tokens of each row of LOGPROBS."""
    values, ids = logprobs.topk(min(k, logprobs.shape[-1]))
    missing = k - ids.shape[-1]
    pad = ((0, 0),) * (ids.ndim - 1) + ((0, missing),)
    return (
        np.pad(ids.cpu().numpy().astype(np.int32), pad),
        np.pad(values.float().cpu().numpy(), pad, constant_values=-99999.0),
    )
