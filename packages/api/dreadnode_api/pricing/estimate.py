"""The estimate of a job's price: its fewest and its most tokens at the rates of its model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from dreadnode_api.pricing.rates import KINDS, Cost, Kind, Rates, TokenCounts, amount_text, cost
from dreadnode_api.pricing.tokenizers import MEASURED_ON, OTHER, conversion


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
            "tokenizer": asdict(self.tokenizer),
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


def estimate(
    plan: Mapping[str, Any],
    rates: Rates,
    *,
    counted: str = "",
    wanted: str = "",
    characters_per_token: float | None = None,
) -> Estimate:
    """Return the price of a job with the PLAN of its check.

    Args:
        plan: the fewest and the most tokens by kind.
        rates: the rates of the model.
        counted: the tokenizer that counted them.
        wanted: the model's own tokenizer; the counts are converted if it is another one.
        characters_per_token: of the data, by the tokenizer that counted.
    """
    least, most = (TokenCounts(**plan[side]) for side in ("at_least", "at_most"))
    if counted == wanted and wanted != OTHER:
        return Estimate(rates, least, most, TokenizerUsed())
    found = conversion(counted, wanted, characters_per_token or 1.0)
    name = "another one" if wanted == OTHER else wanted
    used = TokenizerUsed(
        is_own=False,
        error=round(found.error, 2),
        explanation=(
            f"tokens counted by the tokenizer `{counted}` and estimated for {name}, within "
            f"{found.error:.0%} in measurements of {MEASURED_ON}; differences of the chat formats "
            "come on top"
        ),
    )
    low, high = found.ratio * (1 - found.error), found.ratio * (1 + found.error)
    return Estimate(rates, _scaled(least, low), _scaled(most, high), used)


def _scaled(tokens: TokenCounts, ratio: float) -> TokenCounts:
    # Through a fraction: a float would round counts beyond 2^53.
    exact = Fraction(ratio)
    return TokenCounts(*(round(tokens.of(kind) * exact) for kind in KINDS))


def _side(tokens: TokenCounts, found: Cost) -> dict[str, Any]:
    by_kind: dict[Kind, str | None] = {kind: amount_text(found.by_kind[kind]) for kind in KINDS}
    return {"tokens": tokens.to_json(), "usd_by_kind": by_kind, "usd": amount_text(found.total)}
