"""The rates of a catalog model, and the cost of token counts at these rates.

Token counts are integers and amounts are decimals, so a sum is exact at any size. Hosted Tinker has
four kinds of tokens:

| kind | tokens |
| --- | --- |
| `prefill` | of a prompt that is sampled from |
| `cached_prefill` | of such a prompt that the server still holds from an earlier request |
| `sample` | that were sampled |
| `train` | of the input of a training or an evaluation pass; forward-only passes cost the same |

A token that is sampled and then trained on is paid twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Context, Decimal
from typing import Any, Literal, Self, get_args

from app.training.catalog import TrainingModel, TrainingModelPricing

from dreadnode_api.errors import Conflict

Kind = Literal["prefill", "cached_prefill", "sample", "train"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PER = 1_000_000
"""Rates are US dollars for this many tokens."""

# The default context rounds to 28 digits, which counts beyond 2^53 can exceed.
_EXACT = Context(prec=60)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Numbers of tokens by kind."""

    prefill: int = 0
    cached_prefill: int = 0
    sample: int = 0
    train: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not a count.

        Raises:
            ValueError: a count is negative or no integer.
        """
        for kind in KINDS:
            count: object = self.of(kind)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"`{kind}` is {count!r}, and must be an integer from 0")

    def __add__(self, other: Self) -> Self:
        """Return the sums by kind."""
        return type(self)(*(self.of(kind) + other.of(kind) for kind in KINDS))

    def of(self, kind: Kind) -> int:
        """Return the number of tokens of one kind."""
        count: int = getattr(self, kind)
        return count

    @property
    def total(self) -> int:
        """The number of tokens of all kinds."""
        return sum(self.of(kind) for kind in KINDS)

    def to_json(self) -> dict[str, int]:
        """Return the counts in a form that JSON can hold."""
        return {kind: self.of(kind) for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a model costs, in US dollars per million tokens; None is a rate that is not known.

    Attributes:
        model: id of the model, of its extended variant where the job is trained on that.
        as_of: ISO day or month on which the rates were read; None if none is published.
        promotion: what is known of a discount that is contained in the rates and may end.
        list_rates: the rates without that discount, of the kinds for which they are known.
    """

    model: str
    prefill: Decimal | None = None
    cached_prefill: Decimal | None = None
    sample: Decimal | None = None
    train: Decimal | None = None
    as_of: str | None = None
    promotion: str | None = None
    list_rates: Mapping[Kind, Decimal] | None = None

    def of(self, kind: Kind) -> Decimal | None:
        """Return the rate of one kind, if it is known."""
        rate: Decimal | None = getattr(self, kind)
        return rate

    def to_json(self) -> dict[str, Any]:
        """Return the rates in a form that JSON can hold; amounts are strings."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for kind in KINDS:
            values[kind] = amount_text(values[kind])
        if self.list_rates is not None:
            values["list_rates"] = {
                kind: amount_text(rate) for kind, rate in self.list_rates.items()
            }
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the rates that `to_json` has returned."""
        read = dict(values)
        for kind in KINDS:
            read[kind] = None if read[kind] is None else Decimal(read[kind])
        if read["list_rates"] is not None:
            read["list_rates"] = {kind: Decimal(r) for kind, r in read["list_rates"].items()}
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of token counts.

    Attributes:
        by_kind: US dollars by kind; None where the rate is not known and tokens are counted.
        total: the sum; None if a rate that it needs is not known.
        reason: why there is no total.
    """

    by_kind: Mapping[Kind, Decimal | None]
    total: Decimal | None
    reason: str | None = None


def rates_of(model: TrainingModel) -> Rates:
    """Return the rates of a model of the catalog.

    Raises:
        Conflict: the catalog holds a negative rate, or one that is not a finite number.
    """
    list_rates = None
    if model.list_pricing is not None:
        known = _rates(model.tinker_id, model.list_pricing).items()
        list_rates = {kind: rate for kind, rate in known if rate is not None}
    return Rates(
        model=model.tinker_id,
        **({} if model.pricing is None else _rates(model.tinker_id, model.pricing)),
        as_of=model.pricing_as_of,
        promotion=model.promo,
        list_rates=list_rates,
    )


def cost(tokens: TokenCounts, rates: Rates) -> Cost:
    """Return what `tokens` cost at `rates`, exactly.

    A kind without tokens costs 0, also where its rate is not known.
    """
    by_kind = {kind: _amount(tokens.of(kind), rates.of(kind)) for kind in KINDS}
    unknown = [kind for kind, amount in by_kind.items() if amount is None]
    if unknown:
        return Cost(by_kind, None, _reason(rates, unknown))
    total = Decimal(0)
    for amount in by_kind.values():
        total = _EXACT.add(total, amount or Decimal(0))
    return Cost(by_kind, total)


def _rates(model: str, pricing: TrainingModelPricing) -> dict[Kind, Decimal | None]:
    return {kind: _rate(model, kind, getattr(pricing, kind)) for kind in KINDS}


def _rate(model: str, kind: Kind, published: float | None) -> Decimal | None:
    if published is None:
        return None
    # Through its shortest text: 0.374 is meant, and not the binary fraction next to it.
    rate = Decimal(str(published))
    if not rate.is_finite() or rate < 0:
        raise Conflict(
            f"The catalog says that `{kind}` tokens of `{model}` cost {published} US dollars per "
            "million, which is not a price; correct the catalog of this server, or choose another "
            "model"
        )
    return rate


def _amount(tokens: int, rate: Decimal | None) -> Decimal | None:
    if not tokens:
        return Decimal(0)
    if rate is None:
        return None
    return _EXACT.divide(_EXACT.multiply(Decimal(tokens), rate), Decimal(PER))


def _reason(rates: Rates, unknown: list[Kind]) -> str:
    kinds = " and ".join(f"`{kind}`" for kind in unknown)
    plural = "s" if len(unknown) > 1 else ""
    return f"The catalog has no published rate{plural} of {rates.model} for {kinds} tokens"


def amount_text(amount: Decimal | None) -> str | None:
    """Return an amount as a string without an exponent."""
    return None if amount is None else format(amount, "f")
