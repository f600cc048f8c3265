"""Log-probabilities of a prompt's tokens, and of other tokens in their place."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tinker.proto import tinker_public_pb2 as pb
from torch import Tensor

from dreadnode_engine.compute.network import Network
from dreadnode_engine.compute.sampling import Plan, Targets, TokenSampler, top_logprobs
from dreadnode_engine.compute.training import LOGIT_ROWS

PROMPT_STREAM = 2**62
"""The random stream of alternatives: no sample has this number."""


@dataclass
class PromptScores:
    """The requested scores of a prompt of n tokens.

    Attributes:
        logprobs: of each prompt token, (n,); NaN where not requested, and for the first.
        top_ids, top_logprobs: the most likely tokens, (n, k), or None.
        targets, target_logprobs: the tokens of the request, and their log-probabilities.
        alternatives, alternative_logprobs: sampled at each position after the first, (n - 1, k).
    """

    logprobs: NDArray[np.float32] | None
    top_ids: NDArray[np.int32] | None
    top_logprobs: NDArray[np.float32] | None
    targets: Targets | None
    target_logprobs: NDArray[np.float32] | None
    alternatives: NDArray[np.int32] | None
    alternative_logprobs: NDArray[np.float32] | None

    def write(self, response: pb.SampleResponse) -> None:
        """Write the scores into RESPONSE."""
        if self.logprobs is not None:
            response.prompt_logprobs = self.logprobs.astype("<f4").tobytes()
        if self.top_ids is not None and self.top_logprobs is not None:
            response.topk_prompt_logprobs.CopyFrom(topk_message(self.top_ids, self.top_logprobs))
        if self.targets is not None and self.target_logprobs is not None:
            response.target_prompt_logprobs.CopyFrom(
                _like_request(self.targets, self.target_logprobs)
            )
        if self.alternatives is not None and self.alternative_logprobs is not None:
            response.prompt_alt_tokens.CopyFrom(
                pb.PromptAltTokens(
                    tokens=_tensor(self.alternatives.astype("<i4"), pb.DTYPE_INT32),
                    logprobs=_tensor(self.alternative_logprobs.astype("<f4"), pb.DTYPE_FLOAT32),
                )
            )


def score_prompt(network: Network, hidden: Tensor, plan: Plan) -> PromptScores:
    """Score the prompt of PLAN from its hidden states (n, width), `LOGIT_ROWS` rows at a time."""
    n = len(plan.prompt)
    own = np.full(n, np.nan, dtype=np.float32) if plan.prompt_logprobs else None
    k = plan.topk_prompt
    ids = np.zeros((n, k), dtype=np.int32) if k else None
    tops = np.full((n, k), -99999.0, dtype=np.float32) if k else None
    scored = np.zeros(len(plan.targets.tokens), dtype=np.float32) if plan.targets else None
    alternative_ids = (
        np.zeros((n - 1, plan.alternatives), dtype=np.int32) if plan.alternatives else None
    )
    alternative_logprobs = (
        np.zeros((n - 1, plan.alternatives), dtype=np.float32) if plan.alternatives else None
    )
    sampler = TokenSampler(plan, PROMPT_STREAM)
    first = 1 if (plan.targets or plan.alternatives) else max(1, n - plan.prompt_logprobs)
    for start in range(first, n, LOGIT_ROWS):
        end = min(n, start + LOGIT_ROWS)
        # The state at position i - 1 predicts the token at position i.
        logprobs = torch.log_softmax(network.logits(hidden[start - 1 : end - 1]), dim=-1)
        begin = max(start, n - plan.prompt_logprobs)
        part = logprobs[begin - start :]
        if own is not None and len(part):
            tokens = torch.from_numpy(plan.prompt[begin:end]).to(part.device)
            own[begin:end] = part.gather(-1, tokens[:, None])[:, 0].cpu().numpy()
        if ids is not None and tops is not None and len(part):
            ids[begin:end], tops[begin:end] = top_logprobs(part, k)
        if plan.targets is not None and scored is not None:
            _score_targets(plan.targets, logprobs, start, end, scored)
        if alternative_ids is not None and alternative_logprobs is not None:
            for i in range(start, end):
                row = logprobs[i - start]
                tokens = sampler.sample_many(row, plan.alternatives)
                alternative_ids[i - 1], alternative_logprobs[i - 1] = (
                    tokens.cpu().numpy(),
                    row[tokens].cpu().numpy(),
                )
    return PromptScores(own, ids, tops, plan.targets, scored, alternative_ids, alternative_logprobs)


def _score_targets(
    targets: Targets, logprobs: Tensor, start: int, end: int, scored: NDArray[np.float32]
) -> None:
    rows = targets.rows
    wanted = np.flatnonzero((rows >= start - 1) & (rows < end - 1) & (targets.tokens >= 0))
    if wanted.size:
        at = torch.from_numpy(rows[wanted] - (start - 1)).to(logprobs.device)
        tokens = torch.from_numpy(targets.tokens[wanted]).to(logprobs.device)
        scored[wanted] = logprobs[at, tokens].cpu().numpy()


def topk_message(ids: NDArray[np.int32], logprobs: NDArray[np.float32]) -> pb.TopkLogprobs:
    """Encode the most likely tokens of each position, (positions, k)."""
    return pb.TopkLogprobs(
        token_ids=ids.astype("<i4").tobytes(),
        logprobs=logprobs.astype("<f4").tobytes(),
        k=ids.shape[1],
        length=ids.shape[0],
    )


def _tensor(array: NDArray[np.generic], dtype: pb.DType.ValueType) -> pb.Tensor:
    return pb.Tensor(dense=array.tobytes(), dtype=dtype, shape=array.shape)


def _like_request(targets: Targets, values: NDArray[np.float32]) -> pb.Tensor:
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=targets.shape)
    raw = values.astype("<f4").tobytes()
    if targets.starts is None or targets.columns is None:
        tensor.dense = raw
    else:
        tensor.sparse_csr.values = raw
        tensor.sparse_csr.crow_indices = targets.starts.astype("<i8").tobytes()
        tensor.sparse_csr.col_indices = targets.columns.astype("<i8").tobytes()
    return tensor
