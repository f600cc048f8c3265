"""The fewest and the most tokens that an evaluation sends and samples.

| kind | at least | at most |
| --- | --- | --- |
| `prefill` | none: everything is cached | every prompt once, and every turn fills up |
| `cached_prefill` | all prompts and sequences | the prompts of all completions but the first |
| `sample` | one token a request | `max_tokens` in every turn |
"""

from collections.abc import Sequence

from dreadnode_runtime.data.load_rendering import ChatFormat
from dreadnode_runtime.evaluation.config import EvalConfig
from dreadnode_runtime.evaluation.rows import EvalRows, RenderedRows

Tokens = dict[str, int]


def token_bounds(
    config: EvalConfig, formats: Sequence[ChatFormat], rows: EvalRows
) -> tuple[Tokens, Tokens]:
    """Return the fewest and the most tokens by kind, of models in FORMATS, one each."""
    least: Tokens = {"prefill": 0, "cached_prefill": 0, "sample": 0, "train": 0}
    most = dict(least)
    for each in formats:
        for total, of_model in zip(
            (least, most), _of_model(config, rows.formats[each]), strict=True
        ):
            for kind, count in of_model.items():
                total[kind] += count
    return least, most


def _of_model(config: EvalConfig, rows: RenderedRows) -> tuple[Tokens, Tokens]:
    sequences = [example for found in rows.examples.values() for example in found]
    scored = sum(len(example.tokens) for example in sequences)
    samples, longest = config.samples or 1, config.max_tokens or 0
    prompts = sum(len(prompt.tokens) for prompt in rows.prompts.values())
    completions = len(rows.prompts) * samples
    turns = (config.max_turns or 1) if config.environment is not None else 1
    later = completions * (turns - 1)
    # Computing a loss samples one token, because the protocol has no request without one.
    least = {
        "cached_prefill": scored + prompts * samples,
        "sample": len(sequences) + completions,
    }
    most = {
        "prefill": scored + prompts + later * (config.max_sequence_length - longest),
        "cached_prefill": prompts * (samples - 1),
        "sample": len(sequences) + completions * turns * longest,
    }
    return least, most
