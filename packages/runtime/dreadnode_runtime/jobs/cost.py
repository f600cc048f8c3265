"""The cost of a job: its tokens times the rates that were in force when it was submitted.

The API sends the rates and the tokens of earlier attempts with the job's record; this attempt's
tokens come from its meter. Amounts are decimals, so that they equal the API's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

from dreadnode_runtime.backend.usage import KINDS, Kind, TokenMeter

PER = 1_000_000
"""Rates are US dollars for this many tokens."""
# The default context rounds to 28 digits, which counts beyond 2^53 can exceed.
_EXACT = Context(prec=60)


@dataclass(slots=True)
class Ledger:
    """The tokens, the cost and the budget of a job so far.

    Attributes:
        rates: US dollars per million tokens; None is a rate that is not known.
        as_of: Day or month of the rates.
        earlier: Tokens of earlier attempts.
        earlier_usd: Cost of the jobs that this one resumes.
        limit_usd: Cost at which the job stops after its step; None if unlimited.
        meter: Counts the tokens of this attempt.
    """

    rates: Mapping[Kind, Decimal | None]
    as_of: str | None = None
    earlier: Mapping[Kind, int] = field(default_factory=dict)
    earlier_usd: Decimal = Decimal(0)
    limit_usd: Decimal | None = None
    meter: TokenMeter = field(default_factory=TokenMeter)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], meter: TokenMeter) -> "Ledger":
        """Return the ledger of the job that the API describes with RECORD."""
        cost: Mapping[str, Any] = record.get("cost") or {}
        rates: Mapping[str, Any] = cost.get("rates") or {}
        tokens: Mapping[str, Any] = cost.get("tokens") or {}
        return cls(
            rates={kind: _decimal(rates.get(kind)) for kind in KINDS},
            as_of=rates.get("as_of"),
            earlier={kind: int(tokens.get(kind) or 0) for kind in KINDS},
            earlier_usd=_decimal(cost.get("earlier_usd")) or Decimal(0),
            limit_usd=_decimal(cost.get("limit_usd")),
            meter=meter,
        )

    def update_limit(self, record: Mapping[str, Any]) -> None:
        """Take over the limit in RECORD, which a workspace's other jobs can change."""
        if cost := record.get("cost"):
            self.limit_usd = _decimal(cost.get("limit_usd"))

    @property
    def tokens(self) -> dict[Kind, int]:
        """The tokens of all attempts."""
        counted = self.meter.tokens()
        return {kind: counted[kind] + self.earlier.get(kind, 0) for kind in KINDS}

    @property
    def usd(self) -> Decimal | None:
        """The cost of the tokens; None if a rate that it needs is not known."""
        total = Decimal(0)
        for kind, count in self.tokens.items():
            rate = self.rates[kind]
            if count and rate is None:
                return None
            amount = _EXACT.multiply(Decimal(count), rate or Decimal(0))
            total = _EXACT.add(total, _EXACT.divide(amount, Decimal(PER)))
        return total

    @property
    def is_exhausted(self) -> bool:
        """Whether the cost has reached the limit."""
        if self.limit_usd is None or (usd := self.usd) is None:
            return False
        return self.earlier_usd + usd >= self.limit_usd

    def text(self) -> str:
        """Return the cost and its parts, in one line."""
        parts = [
            f"{count:,} {kind} at {'an unknown rate' if rate is None else f'${rate:f} per million'}"
            for kind, count in self.tokens.items()
            if count
            for rate in [self.rates[kind]]
        ]
        dollars = "unknown" if self.usd is None else f"${self.usd:.4f}"
        when = "" if self.as_of is None else f"; rates of {self.as_of}"
        return f"{dollars} ({', '.join(parts)}{when})"


def _decimal(text: object) -> Decimal | None:
    return None if text is None else Decimal(str(text))
