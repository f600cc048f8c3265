"""How prices are shown to people."""

from __future__ import annotations

from decimal import Decimal

from dreadnode.lazy_types import estimates

KINDS = ("prefill", "cached_prefill", "sample", "train")


def dollars(usd: Decimal) -> str:
    """Return an amount to the cent; to three significant digits if it is below ten cents."""
    if usd >= Decimal("0.1") or not usd:
        return f"${usd:,.2f}"
    return f"${float(usd):.3g}" if usd >= Decimal("0.0001") else "below $0.0001"


def total(price: estimates.Estimate) -> str:
    """Return the total of a price: an amount, a range, or why it is not known."""
    least, most = price.at_least.usd, price.at_most.usd
    if least is None or most is None:
        return f"unknown: {price.reason}"
    if least == most:
        return dollars(most)
    return f"{dollars(least)} to {dollars(most)}"


def lines(price: estimates.Estimate | None) -> list[str]:
    """Return the total, the tokens of each kind with their rate, and the terms of the rates."""
    if price is None:
        return ["unknown: the server cannot count the tokens"]
    shown = [total(price)]
    for kind in KINDS:
        least = getattr(price.at_least.tokens, kind)
        most = getattr(price.at_most.tokens, kind)
        if not max(least, most):
            continue
        least, most = sorted((least, most))
        rate = getattr(price.rates, kind)
        cost = "at an unknown rate" if rate is None else f"at {_rate(rate)} per million"
        tokens = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        shown.append(f"{tokens} {kind.replace('_', ' ')} tokens {cost}")
    if not price.tokenizer.is_own:
        shown.append(str(price.tokenizer.explanation))
    return shown + _terms(price)


def _rate(usd: Decimal) -> str:
    """Return a rate with all of its decimals, and at least two."""
    whole, _, decimals = f"{usd:f}".partition(".")
    return f"${whole}.{decimals:0<2}"


def _terms(price: estimates.Estimate) -> list[str]:
    rates = price.rates
    when = f"rates of {rates.as_of}" if rates.as_of else "no published rates"
    shown = [f"{when}; Tinker's console is authoritative"]
    if rates.promotion:
        shown.append(f"promotion: {rates.promotion}")
        known = [f"{kind} {_rate(rate)}" for kind, rate in (rates.list_rates or {}).items()]
        if known:
            shown[-1] += f"; without it {', '.join(known)} per million"
    return shown
