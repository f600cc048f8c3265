"""The estimate of a job's price: its fewest and its most tokens at the rates of its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dreadnode_api.pricing.rates import KINDS, Cost, Kind, Rates, TokenCounts, cost


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job costs, if it runs to its end without interruption.

    Attributes:
        rates: the rates that it is computed with.
        at_least: the fewest tokens.
        at_most: the most tokens.
        tokenizer: how the tokens were counted.
    """

    rates: Rates
    at_least: TokenCounts
    at_most: TokenCounts
    tokenizer: "TokenizerUsed"

    @property
    def is_exact(self) -> bool:
        """Whether the number of tokens is known."""
        return self.at_least == self.at_most and self.tokenizer.is_own

    @property
    def least(self) -> Cost:
        """The cost of the fewest tokens."""
        return cost(self.at_least, self.rates)

    @property
    def most(self) -> Cost:
        """The cost of the most tokens."""
        return cost(self.at_most, self.rates)

    def to_json(self) -> dict[str, Any]:
        """Return the estimate in a form that JSON can hold; amounts are strings."""
        least, most = self.least, self.most
        return {
            "is_exact": self.is_exact,
            "rates": self.rates.to_json(),
            "tokenizer": self.tokenizer.to_json(),
            "at_least": _side(self.at_least, least),
            "at_most": _side(self.at_most, most),
            "reason": most.reason,
        }


@dataclass(frozen=True, slots=True)
class TokenizerUsed:
    """How tokens were counted.

    Attributes:
        is_own: whether by the model's own tokenizer.
        error: where not, by how much the count was wrong at most in measurements, as a share.
        explanation: where not, how the count was made.
    """

    is_own: bool = True
    error: float | None = None
    explanation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return this in a form that JSON can hold."""
        return {"is_own": self.is_own, "error": self.error, "explanation": self.explanation}


def estimate(plan: Mapping[str, Any], rates: Rates) -> Estimate:
    """Return the price of a job with the PLAN of its check, counted by its model's tokenizer."""
    least, most = (TokenCounts(**plan[side]) for side in ("at_least", "at_most"))
    return Estimate(rates, least, most, TokenizerUsed())


def amount(usd: Decimal | None) -> str | None:
    """Return an amount as a string without exponent."""
    return None if usd is None else format(usd, "f")


def _side(tokens: TokenCounts, found: Cost) -> dict[str, Any]:
    by_kind: dict[Kind, str | None] = {kind: amount(found.by_kind[kind]) for kind in KINDS}
    return {"tokens": tokens.to_json(), "usd_by_kind": by_kind, "usd": amount(found.total)}
