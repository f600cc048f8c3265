"""What a training comes to at list prices: tokens that were counted, times the catalog's rates.

Rates are US dollars for a million tokens at hosted Tinker; whether that is where a job ran, or on
hardware of one's own, is not known here. A sum over an unknown rate is unknown.
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
"""Rates, and the metrics that count what they are for."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens by rate, and what they cost.

    Attributes:
        tokens: By the name of their rate.
        rates: US dollars for a million, by the same name; None where unknown.
        as_of: When the rates were read.
    """

    tokens: Mapping[str, int]
    rates: Mapping[str, float | None]
    as_of: str | None = None

    @property
    def dollars(self) -> float | None:
        """The sum, or nothing where a rate is unknown."""
        total = 0.0
        for name, count in self.tokens.items():
            rate = self.rates[name]
            if rate is None:
                return None
            total += count * rate / 1e6
        return total

    def text(self) -> str:
        """Return the sum and what it is made of, in one line."""
        parts = [
            f"{count:,} {name} at {'an unknown rate' if rate is None else f'${rate:g} a million'}"
            for name, count in self.tokens.items()
            for rate in [self.rates[name]]
        ]
        dollars = "unknown" if self.dollars is None else f"${self.dollars:.4f}"
        when = "" if self.as_of is None else f"; rates of {self.as_of}"
        return f"{dollars} ({', '.join(parts)}{when})"


def list_cost(model: str, metrics: Mapping[str, Any]) -> Cost | None:
    """Return what the steps of a training of MODEL come to, evaluations left out.

    None without a count of tokens. METRICS are the final ones of a job.
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
