"""What a job costs before it runs: token counts by kind, rates and amounts."""

from __future__ import annotations

from decimal import Decimal

from dreadnode.wire import Response


class Tokens(Response):
    """Numbers of tokens by kind."""

    prefill: int = 0
    cached_prefill: int = 0
    sample: int = 0
    train: int = 0

    @property
    def total(self) -> int:
        """The number of tokens of all kinds."""
        return self.prefill + self.cached_prefill + self.sample + self.train


class Amounts(Response):
    """US dollars by kind; None where the rate is not known."""

    prefill: Decimal | None = None
    cached_prefill: Decimal | None = None
    sample: Decimal | None = None
    train: Decimal | None = None


class Rates(Amounts):
    """What a model costs, in US dollars per million tokens.

    Attributes:
        as_of: Day or month on which the rates were read.
        promotion: What is known of a discount that is contained in the rates and may end.
        list_rates: The rates without that discount.
    """

    model: str
    as_of: str | None = None
    promotion: str | None = None
    list_rates: dict[str, Decimal] | None = None


class TokenizerUsed(Response):
    """How tokens were counted.

    Attributes:
        is_own: Whether by the model's own tokenizer.
        error: Where not, the largest error of such a count in measurements, as a share.
        explanation: Where not, how the count was made.
    """

    is_own: bool = True
    error: float | None = None
    explanation: str | None = None


class EstimateSide(Response):
    """The lower or the upper end of an estimate; `usd` is None if a rate is not known."""

    tokens: Tokens
    usd_by_kind: Amounts
    usd: Decimal | None = None


class Estimate(Response):
    """The price of a job that runs to its end without interruption.

    Attributes:
        is_exact: Whether the number of tokens is known, so that both ends are equal.
        reason: Why there is no total.
    """

    is_exact: bool
    rates: Rates
    tokenizer: TokenizerUsed
    at_least: EstimateSide
    at_most: EstimateSide
    reason: str | None = None


class JobWarning(Response):
    """A warning about a job that can run: a word for programs, and a sentence."""

    code: str
    message: str
