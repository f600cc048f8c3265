"""Which models a name may have meant.

A candidate costs what it differs by. A name that is one slip of the keyboard away is compared as
text; any other name is compared by what it says (see ``names``): family, version, size, line and
kind, in falling order of weight. What costs too much is not suggested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rapidfuzz.distance import OSA

from dreadnode.training.models import TINKER_MODELS, TrainingModel
from dreadnode.training.names import KINDS, NOISE, Name, readings

_TOO_FAR = 3.0
_CONFLICT = 4.0
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model, with its name read."""

    model: TrainingModel
    name: Name
    family: tuple[str, ...]
    line: frozenset[str]
    id: str


class Index:
    """The models that may be suggested, with their names read."""

    def __init__(self, models: Sequence[TrainingModel]) -> None:
        self._candidates = [_read(model) for model in models]
        words = {word for one in self._candidates for word in (*one.family, *one.line)}
        self._vocabulary = frozenset(words | set(KINDS))

    def closest(self, name: str, limit: int) -> list[TrainingModel]:
        """Return at most LIMIT of the models that NAME resembles, best first."""
        if len(name) > _MAX_LENGTH or limit < 1:
            return []
        text, ways = name.strip().lower(), readings(name)
        words = tuple(_corrected(word, self._vocabulary) for word in ways[0].words)
        costs = (
            min(_slips(text, ways[0], one), *(_differences(way, words, one) for way in ways))
            for one in self._candidates
        )
        near = sorted((cost, place) for place, cost in enumerate(costs) if cost < _TOO_FAR)
        return [self._candidates[place].model for _, place in near[:limit]]


@cache
def catalog_index() -> Index:
    """Return the index of the catalog, made when it is first asked for."""
    return Index(TINKER_MODELS)


def _read(model: TrainingModel) -> _Candidate:
    name = readings(model.tinker_id)[0]
    family = tuple(model.family.split("-"))
    makers = set(readings(model.organization)[0].words)
    line = frozenset(name.words) - set(family) - makers
    return _Candidate(model, name, family, line, model.tinker_id.lower())


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _corrected(word: str, vocabulary: frozenset[str]) -> str:
    """Return the known word that WORD misspells, or WORD."""
    if word in vocabulary or len(word) < 4:
        return word
    for known in sorted(vocabulary):
        allowed = 1 if len(known) < 6 else 2
        if len(known) > 3 and OSA.distance(word, known, score_cutoff=allowed) <= allowed:
            return known
        if len(word) >= 4 and known.startswith(word):
            return known
    return word


def _slips(text: str, asked: Name, one: _Candidate) -> float:
    """Return the cost of NAME as a mistyped id: a wrong digit weighs more than a wrong letter."""
    distance = min(
        OSA.distance(text, one.id, score_cutoff=3),
        OSA.distance(asked.text, one.name.text, score_cutoff=3),
    )
    if distance > 3 or distance * 4 > len(asked.text):
        return _CONFLICT
    wrong_digits = OSA.distance(_digits(asked.text), _digits(one.name.text), score_cutoff=1)
    if wrong_digits > 1:
        return _CONFLICT
    return 0.4 * distance + 1.1 * wrong_digits


def _differences(asked: Name, words: tuple[str, ...], one: _Candidate) -> float:
    """Return the cost of what NAME says and the candidate is not."""
    if not all(word in words or word in asked.owner for word in one.family):
        return _CONFLICT
    said = set(words) - set(one.family)
    kinds = asked.kinds | {KINDS[word] for word in said if word in KINDS}
    said = {word for word in said if word not in KINDS and word not in NOISE}
    cost = _version(asked.version, one.name.version) + _size(asked, one)
    cost += 0.8 * len(one.line - said)
    cost += 1.5 * len(said - one.line - set(one.name.owner))
    cost += _kind(kinds, one, tagged=asked.tagged)
    if asked.dates != one.name.dates:
        cost += 0.3 if asked.dates else 0.2
    return cost


def _version(asked: str, offered: str) -> float:
    if asked == offered:
        return 0.0
    if not asked:
        return 0.6
    if not offered:
        return 0.8
    if asked == offered.replace(".", ""):
        return 0.1
    return 0.5 if offered.startswith(f"{asked}.") else _CONFLICT


def _size(asked: Name, one: _Candidate) -> float:
    if asked.size is None:
        return 0.5
    known = {one.name.size, one.model.total_size_b}
    if asked.size not in known:
        return _CONFLICT
    if asked.active is None or asked.active == one.name.active:
        return 0.0
    return 0.3 if asked.active == one.model.size_b else 1.0


def _kind(asked: frozenset[str] | set[str], one: _Candidate, *, tagged: bool) -> float:
    """Return the cost of a kind that was asked for and not offered, or the other way round."""
    offered = one.name.kinds
    hybrid = one.model.training_type.startswith(("Hybrid", "Reasoning"))
    plain = not offered and not hybrid
    cost = 0.0
    if "vision" in asked and "vision" not in offered:
        cost += 0.3 if one.model.vision else 2.0
    if "vision" in offered and "vision" not in asked:
        cost += 1.2
    if "base" in asked:
        cost += 0.0 if "base" in offered else 0.1 if plain else 1.0
    elif "base" in offered:
        cost += 1.0 if asked - {"vision"} else 0.45
    if "instruct" in asked or (tagged and not asked):
        cost += 0.0 if "instruct" in offered else 0.2 if hybrid else 0.8
    elif "instruct" in offered and "vision" not in asked:
        cost += 0.4
    if "thinking" in asked and "thinking" not in offered:
        cost += 0.2 if hybrid else 1.0
    elif "thinking" in offered and "thinking" not in asked:
        cost += 0.4
    return cost
