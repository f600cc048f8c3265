"""Prefill: the prompts of several requests, computed in one padded batch.

Padding is on the right, which causal attention never reads. A recurrent layer would read it, so a
model with such layers computes one prompt at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, DynamicLayer, LinearAttentionLayer

from dreadnode_engine.compute.batch_request import BatchRequest
from dreadnode_engine.compute.layer_states import (
    Entries,
    KeyValues,
    LayerKind,
    LayerState,
    LayerStates,
    Recurrent,
)
from dreadnode_engine.compute.multi_adapter import MultiAdapterNetwork
from dreadnode_engine.compute.prompt_logprobs import score_prompt

PREFILL_TOKENS = 2048
"""Padded prompt tokens in one batch."""


class PromptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of the positions from `first`."""

    first = 0


class Prefilled(NamedTuple):
    """Computed prompts.

    Attributes:
        states: of each layer, (prompts, ...).
        logprobs: of the token after each prompt, (prompts, vocabulary).
        reusable: the states that the prefix cache may keep, and how many tokens they have, where
            these are not the whole prompt's.
    """

    states: LayerStates
    logprobs: Tensor
    reusable: tuple[LayerStates, int] | None = None


def prefill(
    network: MultiAdapterNetwork,
    prompts: Sequence[NDArray[np.int64]],
    requests: Sequence[BatchRequest],
) -> Prefilled:
    """Compute PROMPTS, and the prompt scores that REQUESTS, in the same order, ask for."""
    if network.recurrent:
        (prompt,) = prompts
        return _prefill_recurrent(network, prompt, requests)
    lengths = [len(prompt) for prompt in prompts]
    padded = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : lengths[row]] = torch.from_numpy(prompt)
    cache = _new_cache(network.kinds)
    hidden = network.hidden(padded.to(network.device), use_cache=True, past_key_values=cache)
    ends = torch.tensor(lengths, device=hidden.device) - 1
    last = hidden[torch.arange(len(prompts), device=hidden.device), ends]
    logprobs = torch.log_softmax(network.logits(last), -1)
    _score(network, [hidden[row, :length] for row, length in enumerate(lengths)], requests)
    return Prefilled(_states(network.kinds, cache, 0), logprobs)


def prefill_after(
    network: MultiAdapterNetwork, prompt: NDArray[np.int64], prefix: LayerStates, cached: int
) -> Prefilled:
    """Compute the tokens of PROMPT after the CACHED ones, whose states PREFIX has.

    Args:
        network: the network, which computes one row.
        prompt: all tokens.
        prefix: the states of the first CACHED tokens.
        cached: how many tokens are computed.
    """
    cache = _new_cache(network.kinds)
    reusable = None
    for layer, state in zip(cache.layers, prefix, strict=True):
        if isinstance(state, Recurrent):
            layer.update_conv_state(state.conv, conv_kernel_size=state.conv.shape[-1])
            layer.update_recurrent_state(state.state)
        elif isinstance(state, Entries):
            layer.update(state.entries, state.entries[..., :0])
        elif state is not None:
            layer.update(state.keys, state.values)
            layer.first = state.first
    if network.recurrent and len(prompt) - cached > 1:
        _extend(network, cache, prompt[:-1], cached)
        before = _copied(_states(network.kinds, cache, len(prompt) - 1))
        reusable = before, len(prompt) - 1
        hidden = _extend(network, cache, prompt, len(prompt) - 1)
    else:
        hidden = _extend(network, cache, prompt, cached)
    logprobs = torch.log_softmax(network.logits(hidden[:, -1]), -1)
    states = _states(network.kinds, cache, len(prompt))
    return Prefilled(states, logprobs, reusable)


def _prefill_recurrent(
    network: MultiAdapterNetwork, prompt: NDArray[np.int64], requests: Sequence[BatchRequest]
) -> Prefilled:
    """Compute PROMPT up to its last token, and then that one.

    A recurrent state serves only a sequence that continues after all of its tokens. An equal prompt
    and the next turn of a chat both continue before the last token of this one: a completion needs
    the hidden state there.
    """
    cache = _new_cache(network.kinds)
    parts: list[Tensor] = []
    reusable = None
    if len(prompt) > 1:
        parts.append(_extend(network, cache, prompt[:-1], 0))
        reusable = _copied(_states(network.kinds, cache, len(prompt) - 1)), len(prompt) - 1
    parts.append(_extend(network, cache, prompt, len(prompt) - 1))
    hidden = torch.cat(parts, dim=1)
    logprobs = torch.log_softmax(network.logits(hidden[:, -1]), -1)
    _score(network, [hidden[0]], requests)
    return Prefilled(_states(network.kinds, cache, len(prompt)), logprobs, reusable)


def _extend(
    network: MultiAdapterNetwork, cache: Cache, tokens: NDArray[np.int64], start: int
) -> Tensor:
    """Return the hidden states of TOKENS from START on, (1, tokens, width), and fill CACHE."""
    positions = torch.arange(start, len(tokens), device=network.device)
    keys = torch.arange(len(tokens), device=network.device)
    causal = (keys <= positions[:, None])[None, None]
    mask: Tensor | dict[str, Tensor | None] = causal
    # All sliding layers of a model have the same window.
    windows = zip(network.kinds, cache.layers, strict=True)
    kept = next(((kind.window, layer.first) for kind, layer in windows if kind.window), None)
    if kept is not None:
        window, first = kept
        near = causal & (keys > positions[:, None] - window)
        mask = {"full_attention": causal, "sliding_attention": near[..., first:]}
    return network.hidden(
        torch.from_numpy(tokens[start:])[None].to(network.device),
        position_ids=positions[None],
        attention_mask=mask,
        use_cache=True,
        past_key_values=cache,
    )


def _score(
    network: MultiAdapterNetwork, hidden: Sequence[Tensor], requests: Sequence[BatchRequest]
) -> None:
    """Compute the scores that REQUESTS ask for from HIDDEN, (length, width) of each prompt."""
    for row, request in enumerate(requests):
        if request.plan.scores_prompt and request.scores is None:
            with network.only(row):
                request.scores = score_prompt(network, hidden[row], request.plan)


def _new_cache(kinds: Sequence[LayerKind]) -> Cache:
    """Return an empty cache of transformers. Windows are cut later: prompts differ in length."""
    classes = {"recurrent": LinearAttentionLayer, "none": DummyLayer}
    return Cache(layers=[classes.get(kind.name, PromptLayer)() for kind in kinds])


def _states(kinds: Sequence[LayerKind], cache: Cache, length: int) -> LayerStates:
    """Return the states in CACHE after LENGTH tokens; views of what the cache holds."""
    states: list[LayerState] = []
    for kind, layer in zip(kinds, cache.layers, strict=True):
        if kind.name == "none":
            states.append(None)
        elif kind.name == "recurrent":
            conv, state = layer.conv_states[0], layer.recurrent_states[0]
            states.append(Recurrent(conv, conv[:, :0] if state is None else state, length))
        elif kind.name == "entries":
            states.append(Entries(layer.keys, kind.rate))
        else:
            states.append(KeyValues(layer.keys, layer.values, layer.first, kind.window))
    return states


def _copied(states: LayerStates) -> LayerStates:
    """Return STATES with copies of what the next token changes in place."""
    return [state.copy() if isinstance(state, Recurrent) else state for state in states]
