"""Which models a name may have meant.

The cost of a candidate is the sum of two parts. One is what the name says and the candidate is not
(see ``names``): family, version, size, line and kind, in falling order of weight. The other is the
number of slips of the keyboard between the two spellings, which is the same for all candidates that
are spelled differently. So names of other hosts are compared by what they say, and mistyped ids by
their spelling.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rapidfuzz.distance import OSA

from dreadnode.catalog.names import KINDS, Name, readings
from dreadnode.catalog.types import TrainingModel, as_extended

_TOO_FAR = 3.0
_CONFLICT = 4.0
_MAX_SLIPS = 4
_OTHER_SPELLING = 4.4
_MAX_LENGTH = 200
_VARIANT = ":peft"


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model, with its name read.

    Attributes:
        family: The words without which a name does not mean this family.
        rivals: The words of the other families.
        line: Words that tell it from others of its family, such as ``nano`` or ``flash``.
        text: Its id in lower case.
        squashed: Its bare name without separators.
    """

    model: TrainingModel
    name: Name
    family: frozenset[str]
    rivals: frozenset[str]
    line: frozenset[str]
    text: str
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
        text = name.strip().lower()
        ways = [self._corrected(way) for way in readings(name)]
        extended = _VARIANT in text
        candidates = self._candidates + (self._variants if extended else [])
        near = []
        for place, one in enumerate(candidates):
            said = min(_CONFLICT, *(_differences(way, one) for way in ways))
            cost = _cost(text, ways[0], one, said)
            if cost < math.inf:
                # A variant that was not asked for stands below the one that was.
                missing = extended and _VARIANT not in one.text
                near.append((cost + 0.5 * missing, place))
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
        text=model.tinker_id.lower(),
        squashed=_squashed(name),
    )


def _squashed(name: Name) -> str:
    return "".join(character for character in name.text if character.isalnum())


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _cost(text: str, asked: Name, one: _Candidate, said: float) -> float:
    """Return the cost of a candidate; infinite if it is not suggested.

    Args:
        text: the whole name.
        asked: the name as it was read.
        one: the candidate.
        said: the cost of what the name says and the candidate is not.
    """
    slips = _slips(text, one.text, _MAX_SLIPS, 3)
    if _squashed(asked) == one.squashed:
        said = min(said, 0.05)
    bare, same = one.name.text, _digits(asked.text) == _digits(one.name.text)
    in_bare = _slips(asked.text, bare, 3 if same else 1, 4)
    if in_bare < _OTHER_SPELLING:
        said = min(said, 0.3 * in_bare - 0.25 + (0.0 if same else 0.5))
    cost = said + slips if said < _TOO_FAR or slips < _OTHER_SPELLING else math.inf
    for name, spelling, offset in ((text, one.text, 0.0), (asked.text, bare, _OTHER_SPELLING)):
        if len(name) > 3 and spelling.startswith(name):
            cost = min(cost, offset + 0.1 * said + 0.01 * (len(spelling) - len(name)))
    return cost


def _slips(text: str, spelling: str, most: int, length: int) -> float:
    """Return the slips between two spellings, at most MOST and one in LENGTH characters."""
    slips = OSA.distance(text, spelling, score_cutoff=most)
    if slips > most or slips * length > len(text):
        return _OTHER_SPELLING
    # To lose or swap a character is likelier than to hit exactly one of forty others.
    return slips + 0.05 * (Counter(text) - Counter(spelling)).total()


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
