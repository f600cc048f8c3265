"""The cost of a training at list prices: counted tokens times the catalog's rates.

Rates are US dollars per million tokens at hosted Tinker. The runtime does not know whether the job
ran there or on the user's own hardware. A sum over an unknown rate is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode.training import get_training_model

KINDS = {
    "prefill": "tokens/prompt",
    "sample": "tokens/sampled",
    "train": "tokens/trained",
}
"""The metric that counts the tokens of each rate."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Token counts and rates.

    Attributes:
        tokens: Number of tokens by the name of their rate.
        rates: US dollars per million tokens, by the same name; None if unknown.
        as_of: Date of the rates.
    """

    tokens: Mapping[str, int]
    rates: Mapping[str, float | None]
    as_of: str | None = None

    @property
    def dollars(self) -> float | None:
        """The total; None if a rate is unknown."""
        total = 0.0
        for name, count in self.tokens.items():
            rate = self.rates[name]
            if rate is None:
                return None
            total += count * rate / 1e6
        return total

    def text(self) -> str:
        """Return the total and its parts, in one line."""
        parts = [
            f"{count:,} {name} at {'an unknown rate' if rate is None else f'${rate:g} per million'}"
            for name, count in self.tokens.items()
            for rate in [self.rates[name]]
        ]
        dollars = "unknown" if self.dollars is None else f"${self.dollars:.4f}"
        when = "" if self.as_of is None else f"; rates of {self.as_of}"
        return f"{dollars} ({', '.join(parts)}{when})"


def list_cost(model: str, metrics: Mapping[str, Any]) -> Cost | None:
    """Return the cost of the training steps of a job of MODEL, without its evaluations.

    METRICS are the job's final ones; None if they have no token count.
    """
    counted = {name: metrics.get(metric) for name, metric in KINDS.items()}
    if "train/num_tokens_processed" in metrics:
        counted = {"train": metrics["train/num_tokens_processed"]}
    tokens = {name: int(count) for name, count in counted.items() if count is not None}
    if not tokens:
        return None
    found = get_training_model(model)
    pricing = None if found is None else found.pricing
    rates = {name: None if pricing is None else getattr(pricing, name) for name in tokens}
    return Cost(tokens, rates, None if found is None else found.pricing_as_of)
