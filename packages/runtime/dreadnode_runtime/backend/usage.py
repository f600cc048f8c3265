"""Counts the tokens that an attempt sends to the engine and gets back, by kind.

| kind | tokens |
| --- | --- |
| `prefill` | of prompts that were sampled from |
| `cached_prefill` | of such prompts that the engine still held, or that completions share |
| `sample` | that were sampled |
| `train` | of the inputs of forward and forward-backward passes, evaluations included |
"""

import json
import logging
from pathlib import Path
from typing import Final, Literal, get_args

from tinker import types

log = logging.getLogger(__name__)

Kind = Literal["prefill", "cached_prefill", "sample", "train"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FILE: Final = "usage.json"
"""Name of the file with the counts, which the runner reads after the end of the sandbox."""

Tokens = dict[Kind, int]


class TokenMeter:
    """The token counts of one attempt; they only grow.

    Passes are counted when they are submitted, and before the request is sent, because a process
    that is killed cannot count the result. Samples are counted when they arrive: the engine
    decides how many tokens there are.

    Args:
        file: Where the counts are kept as well, so that they outlive a killed process.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._tokens: Tokens = dict.fromkeys(KINDS, 0)
        self._is_writable = True

    def tokens(self) -> Tokens:
        """Return a copy of the counts."""
        return dict(self._tokens)

    def count_pass(self, data: list[types.Datum]) -> None:
        """Count the inputs of a forward or forward-backward pass on DATA."""
        self.add({"train": sum(datum.model_input.length for datum in data)})

    def count_sample(self, prompt_tokens: int, response: types.SampleResponse) -> None:
        """Count RESPONSE to a request with a prompt of PROMPT_TOKENS.

        The prompt is computed once for all completions. Tinker bills it as cached for every
        completion but the first, and reports the hits of the first only.
        """
        hits = min(response.prompt_cache_hit_tokens, prompt_tokens)
        shared = prompt_tokens * (len(response.sequences) - 1)
        sampled = sum(len(sequence.tokens) for sequence in response.sequences)
        prefill, cached = prompt_tokens - hits, hits + shared
        self.add({"prefill": prefill, "cached_prefill": cached, "sample": sampled})

    def add(self, added: Tokens) -> None:
        """Add to the counts."""
        for kind, count in added.items():
            self._tokens[kind] += count
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        partial = self._file.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self._tokens))
            partial.replace(self._file)
        except OSError as error:
            # The events hold the counts too; only those after the last event depend on the file.
            if self._is_writable:
                log.warning("the token counts cannot be written: %s", error)
            self._is_writable = False
        else:
            self._is_writable = True
