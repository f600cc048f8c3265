"""A causal language model in two halves: tokens to hidden states, hidden states to logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreadnode_engine.compute.mixed_precision import last_layer

NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)
"""A mask of four dimensions keeps transformers from making one; attention knows what it reads."""


class Network:
    """A causal language model in two halves, so that logits are computed only where needed.

    `causal_lm` is a plain base model, or one wrapped by PEFT with an adapter bound into it. `mixed`
    says that it computes in mixed precision (`mixed_precision.py`).
    """

    def __init__(self, causal_lm: nn.Module, *, mixed: bool = False) -> None:
        self.causal_lm = causal_lm
        self.mixed = mixed
        self._decoder = causal_lm.get_decoder()  # type: ignore[operator]
        self._head = causal_lm.get_output_embeddings()  # type: ignore[operator]
        # What Inkling's architectures do around their last layer. `config.json` may have settings
        # of other ones, so only those count that are fields of the architecture's own class.
        config: Any = causal_lm.config
        names = ("logits_mup_width_multiplier", "final_logit_softcapping", "unpadded_vocab_size")
        self._width, self._cap, self._vocabulary = (
            getattr(config, name) if hasattr(type(config), name) else None for name in names
        )

    def hidden(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        """Return the last hidden states of TOKENS, (rows, length) -> (rows, length, width)."""
        output = self._decoder(input_ids=tokens, **{"use_cache": False, **kwargs})
        return output.last_hidden_state  # type: ignore[no-any-return]

    def packed_hidden(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the hidden states of sequences of LENGTHS that follow one another in TOKENS.

        Args:
            tokens: (all tokens,).
            positions: of each token in its own sequence, (all tokens,).
            lengths: of the sequences; no sequence attends to another.

        Returns:
            (all tokens, width).
        """
        return self.hidden(
            tokens[None],
            position_ids=positions[None],
            attention_mask=NO_MASK.to(tokens.device),
            sequence_lengths=tuple(lengths),
        )[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits of hidden states, (..., width) -> (..., vocabulary)."""
        if self._width is not None:
            hidden = hidden / self._width
        logits: Tensor = last_layer(self._head, hidden, mixed=self.mixed).float()
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        # Rows of the last layer that only pad it stand for no token.
        return logits[..., : self._vocabulary]
