"""Means over rows and paired differences, with 95 % confidence intervals.

The rows are taken as a sample of all rows that could have been asked. Completions of the same row
are no further rows: they are averaged first.

| value | interval |
| --- | --- |
| loss | of a ratio, total loss to total tokens: linearized, with Student's t |
| reward | of a mean, with Student's t |
| reward, where every row has 0 or 1 | Wilson's (1927) |
| difference of two models | of the paired differences of rows, with Student's t |

The linearization is the usual one of a ratio estimator R = sum(y) / sum(x): the residuals
(y - R x) / mean(x) of the rows vary as R does (Cochran, Sampling Techniques, 1977, section 6.4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["student_t", "student_t_of_ratio", "wilson", "student_t_of_paired_differences"]
Floats = npt.NDArray[np.float64]

NORMAL = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
FEW = {1: 12.706204736, 2: 4.30265273, 3: 3.182446305, 4: 2.776445105}
"""The same of Student's t where the expansion of `t_quantile` is too rough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or a difference with its 95 % confidence interval.

    Attributes:
        low: Lower end; None with a single row.
        high: Upper end.
        rows: Number of rows.
        method: How the interval is computed.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    method: Method


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun, 26.7.5)."""
    if degrees in FEW:
        return FEW[degrees]
    z, n = NORMAL, float(degrees)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, 1))


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of VALUES; with Wilson's interval where each is 0 or 1."""
    array = np.asarray(values, np.float64)
    if set(np.unique(array)) <= {0.0, 1.0}:
        return _wilson(int(array.sum()), len(array))
    return _estimate(float(array.mean()), array - array.mean(), "student_t")


def ratio(totals: Sequence[float], weights: Sequence[float]) -> Estimate:
    """Return the sum of TOTALS divided by that of WEIGHTS."""
    value, residuals = _linearized(totals, weights)
    return _estimate(value, residuals, "student_t_of_ratio")


def paired_mean(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Return by how much the mean of VALUES is above that of BASELINE, row by row."""
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    value = float(differences.mean())
    return _estimate(value, differences - value, "student_t_of_paired_differences")


def paired_ratio(
    values: tuple[Sequence[float], Sequence[float]],
    baseline: tuple[Sequence[float], Sequence[float]],
) -> Estimate:
    """Return by how much the ratio of VALUES is above that of BASELINE; each is (totals, weights).

    The two have the same rows, but a row may have other tokens in another chat format.
    """
    (one, residuals), (other, others) = _linearized(*values), _linearized(*baseline)
    return _estimate(one - other, residuals - others, "student_t_of_paired_differences")


def _linearized(totals: Sequence[float], weights: Sequence[float]) -> tuple[float, Floats]:
    y, x = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    value = float(y.sum() / x.sum())
    return value, (y - value * x) / x.mean()


def _estimate(value: float, residuals: Floats, method: Method) -> Estimate:
    rows = len(residuals)
    if rows < 2:
        return Estimate(value, None, None, rows, method)
    error = math.sqrt(float(np.square(residuals).sum()) / (rows - 1) / rows)
    reach = t_quantile(rows - 1) * error
    return Estimate(value, value - reach, value + reach, rows, method)


def _wilson(successes: int, rows: int) -> Estimate:
    share, z2 = successes / rows, NORMAL**2
    if rows < 2:
        return Estimate(share, None, None, rows, "wilson")
    center = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    reach = NORMAL * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return Estimate(share, max(0.0, center - reach), min(1.0, center + reach), rows, "wilson")
