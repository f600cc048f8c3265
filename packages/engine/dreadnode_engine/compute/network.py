"""A causal language model in two halves: tokens to hidden states, hidden states to logits."""

from typing import Any

from torch import Tensor, nn


class Network:
    """A causal language model in two halves, so that logits are computed only where needed.

    `causal_lm` is a plain base model, or one wrapped by PEFT with an adapter bound into it.
    """

    def __init__(self, causal_lm: nn.Module) -> None:
        self.causal_lm = causal_lm
        self._decoder = causal_lm.get_decoder()  # type: ignore[operator]
        self._head = causal_lm.get_output_embeddings()  # type: ignore[operator]

    def hidden(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        """Return the last hidden states of TOKENS, (rows, length) -> (rows, length, width)."""
        output = self._decoder(input_ids=tokens, **kwargs)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits of hidden states, (..., width) -> (..., vocabulary)."""
        return self._head(hidden).float()  # type: ignore[no-any-return]
