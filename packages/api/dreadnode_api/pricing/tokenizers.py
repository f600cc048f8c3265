"""Estimates of how many tokens of one tokenizer are how many of another.

Tokenizers differ little on English and on code, and by half on other languages. How many
characters a token has tells the kinds of text apart: the ratio of two counts is fitted to its
logarithm, by least squares over the texts below. The error of an estimate is the largest one over
those of these texts that are alike in this respect; for a tokenizer that was not measured the
largest error of predicting each measured one by the others is added.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import geometric_mean

MEASURED_ON = "2026-11-30"
STAND_IN = "stand-in"
MEASURED = ("qwen3", "llama3", "o200k", "deepseek_v3")
TEXTS: Mapping[str, tuple[int, ...]] = {
    # Characters, tokens of the stand-in (SmolLM2), and of each tokenizer in MEASURED.
    "English chat": (8609, 2295, 2146, 2138, 2119, 2138),
    "English Markdown": (308586, 92228, 82401, 79738, 79657, 82906),
    "Python": (517897, 148808, 126993, 125978, 126497, 136765),
    "JSON": (200000, 43086, 40181, 39096, 39219, 40538),
    "English prose": (11358, 2224, 2273, 2270, 2262, 2265),
    "arithmetic": (3776, 1366, 1318, 1200, 1200, 1200),
    "Korean": (32039, 43344, 18297, 16496, 16069, 17799),
    "Polish": (60390, 32635, 24973, 24192, 22234, 23171),
    "Chinese, simplified": (24787, 23303, 14341, 13715, 13548, 12949),
    "Chinese, traditional": (13429, 12617, 7920, 7582, 7736, 6948),
    "German": (110058, 47742, 37604, 35305, 31223, 35279),
    "Spanish": (117874, 48284, 37825, 35605, 32696, 36985),
    "Italian": (111851, 44703, 38350, 35939, 33709, 35962),
    "Japanese": (50431, 63221, 30992, 29309, 30250, 29411),
    "Russian": (112052, 83630, 42807, 38254, 34976, 38603),
    "Turkish": (103288, 56057, 40817, 35555, 35837, 45123),
    "Ukrainian": (99982, 77569, 51142, 37649, 37571, 44127),
    "Vietnamese": (46460, 34590, 16467, 15050, 15529, 19899),
}
"""Counts over 18 texts: documentation, code and messages of programs in twelve languages."""
BEGINNINGS = {
    "Qwen/Qwen3-": "qwen3",
    "meta-llama/": "llama3",
    "thinkingmachineslabinc/meta-llama-3": "llama3",
    "openai/gpt-oss-": "o200k",
    "tml-renderers:O200k": "o200k",
    "deepseek-ai/DeepSeek-V3.1": "deepseek_v3",
}
"""How the ids of tokenizers begin that were measured."""
ALIKE = 0.5
"""By how much the logarithms of texts that are alike differ at most."""
OTHER = "other"
"""A tokenizer that was not measured: taken as the mean of those that were."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How counts of one tokenizer become those of another.

    Attributes:
        ratio: tokens of the second one for a token of the first.
        error: the largest error in measurements, as a share.
    """

    ratio: float
    error: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """A ratio as a linear function of the logarithm of characters per token.

    Attributes:
        errors: The logarithm of each text, with the error there as a share.
    """

    offset: float
    slope: float
    errors: tuple[tuple[float, float], ...]

    def at(self, characters_per_token: float) -> Conversion:
        """Return the ratio for a text, within those that were measured, and its error."""
        measured = [x for x, _ in self.errors]
        # Outside of what was measured the line means nothing.
        at = min(max(math.log(characters_per_token), min(measured)), max(measured))
        error = max(error for x, error in self.errors if abs(x - at) <= ALIKE)
        return Conversion(self.offset + self.slope * at, error)


def tokenizer_of(tokenizer_id: str | None) -> str:
    """Return which measured tokenizer has an id; `other` if none has."""
    name = tokenizer_id or ""
    return next((kind for start, kind in BEGINNINGS.items() if name.startswith(start)), OTHER)


def conversion(counted: str, wanted: str, characters_per_token: float) -> Conversion:
    """Return how counts of the tokenizer `counted` become those of `wanted`.

    Args:
        counted: a tokenizer of `MEASURED`, the stand-in's, or another one.
        wanted: the same.
        characters_per_token: of the data, by the first one.
    """
    found = _fit(counted, wanted).at(characters_per_token)
    more = sum(_error_of_others() for kind in (counted, wanted) if kind == OTHER)
    return Conversion(found.ratio, found.error + more)


@cache
def _fit(counted: str, wanted: str) -> _Fit:
    return _least_squares(_column(counted), _column(wanted))


@cache
def _error_of_others() -> float:
    """Return the largest error when each measured tokenizer is taken as the mean of the others."""
    return max(
        abs(mean / count - 1)
        for kind in MEASURED
        for mean, count in zip(_mean_without(kind), _column(kind), strict=True)
    )


def _column(kind: str) -> list[float]:
    if kind == STAND_IN:
        return [counts[1] for counts in TEXTS.values()]
    if kind == OTHER:
        return _mean_without(None)
    return [counts[2 + MEASURED.index(kind)] for counts in TEXTS.values()]


def _mean_without(left_out: str | None) -> list[float]:
    columns = [_column(kind) for kind in MEASURED if kind != left_out]
    return [geometric_mean(counts) for counts in zip(*columns, strict=True)]


def _least_squares(counted: list[float], wanted: list[float]) -> _Fit:
    characters = [counts[0] for counts in TEXTS.values()]
    x = [math.log(each / count) for each, count in zip(characters, counted, strict=True)]
    y = [after / before for after, before in zip(wanted, counted, strict=True)]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
    offset = mean_y - slope * mean_x
    errors = (abs((offset + slope * a) / b - 1) for a, b in zip(x, y, strict=True))
    return _Fit(offset, slope, tuple(zip(x, errors, strict=True)))
