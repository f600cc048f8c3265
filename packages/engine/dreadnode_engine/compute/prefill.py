"""Prefill: the prompts of several requests, computed in one padded batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.kv_cache import LayerStates
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.prompt_logprobs import score_prompt

PREFILL_TOKENS = 2048
"""Padded prompt tokens in one batch."""


def prefill(
    network: MultiAdapterNetwork,
    prompts: Sequence[NDArray[np.int64]],
    requests: Sequence[BatchRequest],
) -> tuple[LayerStates, Tensor]:
    """Compute PROMPTS, and the prompt scores that REQUESTS, in the same order, ask for.

    Returns:
        Keys and values of each layer, (prompts, heads, longest, width), and the log-probabilities
        of the token after each prompt, (prompts, vocabulary).
    """
    lengths = [len(prompt) for prompt in prompts]
    padded = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : lengths[row]] = torch.from_numpy(prompt)
    cache = DynamicCache()
    # Padding is on the right, which causal attention never reads, so it needs no mask.
    hidden = network.hidden(padded.to(network.device), use_cache=True, past_key_values=cache)
    ends = torch.tensor(lengths, device=hidden.device) - 1
    last = hidden[torch.arange(len(prompts), device=hidden.device), ends]
    logprobs = torch.log_softmax(network.logits(last), -1)
    for row, request in enumerate(requests):
        if request.plan.scores_prompt and request.scores is None:
            with network.only(row):
                states = hidden[row, : lengths[row]]
                request.scores = score_prompt(network, states, request.plan)
    return [(layer.keys, layer.values) for layer in cache.layers], logprobs


def prefill_after(
    network: MultiAdapterNetwork, prompt: NDArray[np.int64], prefix: LayerStates
) -> tuple[LayerStates, Tensor]:
    """Compute the tokens of PROMPT that are not in PREFIX.

    Args:
        network: the network, which computes one row.
        prompt: all tokens.
        prefix: keys and values (1, heads, cached tokens, width) of each layer.

    Returns:
        As `prefill`, for the whole prompt.
    """
    cached, length = prefix[0][0].shape[2], len(prompt)
    cache = DynamicCache()
    for layer, (key, value) in enumerate(prefix):
        cache.update(key, value, layer)
    positions = torch.arange(cached, length)
    mask = torch.arange(length) <= positions[:, None]
    hidden = network.hidden(
        torch.from_numpy(prompt[cached:])[None].to(network.device),
        position_ids=positions[None].to(network.device),
        attention_mask=mask[None, None].to(network.device),
        use_cache=True,
        past_key_values=cache,
    )
    logprobs = torch.log_softmax(network.logits(hidden[:, -1]), -1)
    return [(layer.keys, layer.values) for layer in cache.layers], logprobs
