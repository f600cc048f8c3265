"""Probes: whether a base model can be trained here, found out before a client needs it."""

import logging

import torch
from torch import nn

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.compute.adapters import LoraShape, PeftWrapper
from dreadnode_engine.compute.attention import ENGINE_ATTENTION
from dreadnode_engine.compute.decoders import empty_decoder
from dreadnode_engine.compute.network import Network
from dreadnode_engine.errors import OperationFailed, Refused

log = logging.getLogger(__name__)

PROBE_SHAPE = LoraShape(1, train_mlp=True, train_attn=True, train_unembed=True)
PROBE_TOKENS = 4


def check_architecture(served: ServedModel) -> None:
    """Refuse a model whose architecture has no trainable form here, without loading weights."""
    try:
        model = empty_decoder(served.path, attn_implementation=ENGINE_ATTENTION)
        with torch.device("meta"):
            PeftWrapper(model, PROBE_SHAPE)
    except OperationFailed as problem:
        raise Refused(f"The model {served.id} cannot be trained: {problem}") from None
    except Exception as problem:
        first = str(problem).strip().split("\n")[0]
        raise Refused(f"The model {served.id} cannot be trained: {first}") from problem


def check_training(served: ServedModel, base: nn.Module) -> None:
    """Fail a loaded model on which a forward or a backward pass does not work."""
    wrapper = PeftWrapper(base, PROBE_SHAPE)
    network = Network(wrapper.causal_lm)
    parameters = {name: nn.Parameter(t) for name, t in wrapper.initial(0).items()}
    wrapper.bind(parameters)
    tokens = torch.arange(PROBE_TOKENS, device=wrapper.device)[None]
    try:
        logits = network.logits(network.hidden(tokens))
        torch.autograd.backward(logits.logsumexp(-1).sum())
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        if not gradients or not all(bool(g.isfinite().all()) for g in gradients):
            raise ArithmeticError("its gradients are not finite")  # noqa: TRY301
    except Exception as problem:
        first = str(problem).strip().split("\n")[0]
        raise OperationFailed(
            f"The model {served.id} cannot be trained: {first}", category="server"
        ) from problem
