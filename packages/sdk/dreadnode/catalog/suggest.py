"""Which models a name may have meant.

A candidate costs what it differs by. A name that is one slip of the keyboard away is compared as
text; any other name is compared by what it says (see ``names``): family, version, size, line and
kind, in falling order of weight. What costs too much is not suggested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rapidfuzz.distance import OSA, Indel

from dreadnode.catalog.names import KINDS, Name, readings
from dreadnode.catalog.types import TrainingModel, as_extended

_TOO_FAR = 3.0
_CONFLICT = 4.0
_MAX_LENGTH = 200
_VARIANT = ":peft"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model, with its name read.

    Attributes:
        family: The words without which a name does not mean this family.
        rivals: The words of the other families.
        line: Words that tell it from others of its family, such as ``nano`` or ``flash``.
        spellings: Its id and its bare name, each with its digits.
        squashed: Its bare name without separators.
    """

    model: TrainingModel
    name: Name
    family: frozenset[str]
    rivals: frozenset[str]
    line: frozenset[str]
    spellings: tuple[tuple[str, str], ...]
    squashed: str


class Index:
    """The models that may be suggested, with their names read.

    The extended variants are suggested only to a name that asks for one.
    """

    def __init__(self, models: Sequence[TrainingModel]) -> None:
        families = frozenset(word for model in models for word in model.family.split("-"))
        self._candidates = [_read(model, families) for model in models]
        extended = (as_extended(model) for model in models)
        self._variants = [_read(model, families) for model in extended if model is not None]
        lines = frozenset(word for one in self._candidates for word in one.line)
        self._families = sorted(families)
        self._traits = sorted(lines | set(KINDS))

    def closest(self, name: str, limit: int) -> list[TrainingModel]:
        """Return at most LIMIT of the models that NAME resembles, best first."""
        if len(name) > _MAX_LENGTH or limit < 1:
            return []
        ways = [self._corrected(way) for way in readings(name)]
        spellings = _spellings(name.strip().lower(), ways[0])
        squashed = _squashed(ways[0])
        extended = _VARIANT in spellings[0][0]
        candidates = self._candidates + (self._variants if extended else [])
        near = []
        for place, one in enumerate(candidates):
            said = min(_differences(way, one) for way in ways)
            cost = min(said, _slips(spellings, one), _unfinished(spellings, one, said))
            if squashed == one.squashed:
                cost = min(cost, 0.05)
            if extended and _VARIANT not in one.model.tinker_id:
                cost += 0.5
            if cost < _TOO_FAR:
                near.append((cost, place))
        return [candidates[place].model for _, place in sorted(near)[:limit]]

    def _corrected(self, name: Name) -> Name:
        """Return NAME with each word that misspells a known one replaced by it."""
        words = tuple(self._known(word) for word in name.words)
        kinds = name.kinds | {KINDS[word] for word in words if word in KINDS}
        return replace(name, words=tuple(word for word in words if word not in KINDS), kinds=kinds)

    def _known(self, word: str) -> str:
        if len(word) < 4 or word in self._families or word in self._traits:
            return word
        for known in (*self._families, *self._traits):
            slips = 1 if len(known) < 6 else 2
            if len(known) > 3 and OSA.distance(word, known, score_cutoff=slips) <= slips:
                return known
        # A trait may be cut short; a family may not, or Mistral Nemo were a Nemotron.
        return next((known for known in self._traits if known.startswith(word)), word)


def _read(model: TrainingModel, families: frozenset[str]) -> _Candidate:
    name = readings(model.tinker_id)[0]
    family = frozenset(model.family.split("-"))
    makers = frozenset(readings(model.organization)[0].words)
    return _Candidate(
        model=model,
        name=name,
        family=family,
        rivals=families - family,
        line=frozenset(name.words) - family - makers,
        spellings=_spellings(model.tinker_id.lower(), name),
        squashed=_squashed(name),
    )


def _spellings(text: str, name: Name) -> tuple[tuple[str, str], ...]:
    return (text, _digits(text)), (name.text, _digits(name.text))


def _squashed(name: Name) -> str:
    return "".join(character for character in name.text if character.isalnum())


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _slips(asked: tuple[tuple[str, str], ...], one: _Candidate) -> float:
    """Return the cost of the name as the mistyped spelling of a candidate.

    A digit put for another weighs most: it makes another model of the name.
    """
    cheapest = _CONFLICT
    for (text, digits), (spelling, its_digits) in zip(asked, one.spellings, strict=True):
        distance = OSA.distance(text, spelling, score_cutoff=3)
        if distance > 3 or distance * 4 > len(text):
            continue
        wrong = _wrong_digits(digits, its_digits)
        if wrong < 1.0 or distance == 1:
            cheapest = min(cheapest, 0.3 * distance - 0.25 + wrong)
    return cheapest


def _wrong_digits(digits: str, meant: str) -> float:
    """Return what digits cost beyond other characters: one put for another makes another model."""
    if digits == meant:
        return 0.0
    if len(digits) == len(meant):
        swapped = sorted(digits) == sorted(meant)
        return 0.2 if swapped else OSA.distance(digits, meant, score_cutoff=1)
    added = Indel.distance(digits, meant)
    return 0.35 * added if added == abs(len(digits) - len(meant)) <= 2 else _CONFLICT


def _unfinished(asked: tuple[tuple[str, str], ...], one: _Candidate, said: float) -> float:
    """Return the cost of the name as the beginning of a candidate's."""
    missing = [
        len(spelling) - len(text)
        for (text, _), (spelling, _) in zip(asked, one.spellings, strict=True)
        if len(text) > 3 and spelling.startswith(text)
    ]
    return 0.1 * said + 0.01 * min(missing) if missing else _CONFLICT


def _differences(asked: Name, one: _Candidate) -> float:
    """Return the cost of what a name says and the candidate is not."""
    words = frozenset(asked.words)
    if not one.family <= words | frozenset(asked.owner) or one.rivals & words:
        return _CONFLICT
    cost = _version(asked.version, one.name.version) + _size(asked, one) + _kind(asked, one)
    cost += 0.8 * len(one.line - words)
    strange = words - one.family - one.line - frozenset(one.name.owner)
    brand = frozenset(asked.words[: _place(asked.words, one.family)])
    cost += 1.5 * len(strange - brand) + 0.1 * len(strange & brand)
    if asked.dates - one.name.dates:
        cost += 0.8
    elif one.name.dates - asked.dates:
        cost += 0.1
    return cost


def _place(words: Sequence[str], family: frozenset[str]) -> int:
    """Return where in WORDS the family is named; what stands before it names a host or a maker."""
    return next((place for place, word in enumerate(words) if word in family), 0)


def _version(asked: str, offered: str) -> float:
    if asked == offered:
        return 0.0
    if not asked:
        return 0.6
    if not offered:
        return 1.2
    if asked == offered.replace(".", ""):
        return 0.1
    return 0.7 if offered.startswith(f"{asked}.") else _CONFLICT


def _size(asked: Name, one: _Candidate) -> float:
    if asked.size is None:
        return 0.0 if one.name.size is None else 0.5
    if asked.size not in (one.name.size, one.model.total_size_b):
        return _CONFLICT
    if asked.active is None or asked.active == one.name.active:
        return 0.0
    return 0.3 if asked.active == one.model.size_b else 1.0


def _kind(asked: Name, one: _Candidate) -> float:
    """Return the cost of a kind that was asked for and not offered, or the other way round."""
    wanted, offered = asked.kinds, one.name.kinds
    chats = one.model.training_type.startswith(("Hybrid", "Reasoning"))
    cost = 0.0
    if "vision" in wanted and "vision" not in offered:
        cost += 0.3 if one.model.vision else 2.0
    elif "vision" in offered and "vision" not in wanted:
        cost += 1.2
    if "base" in wanted and "base" not in offered:
        cost += 0.1 if one.model.training_type == "Base" else 1.0
    elif "base" in offered and "base" not in wanted:
        cost += 1.0 if wanted - {"vision"} else 0.45
    if "instruct" in wanted or (asked.tagged and not wanted):
        cost += 0.0 if "instruct" in offered else 0.3 if chats else 0.8
    elif "instruct" in offered and "vision" not in wanted:
        cost += 0.4
    if "thinking" in wanted and "thinking" not in offered:
        cost += 0.2 if chats else 1.0
    elif "thinking" in offered and "thinking" not in wanted:
        cost += 0.4
    return cost
