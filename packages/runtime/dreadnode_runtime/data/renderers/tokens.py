"""Text to tokens, so that only a chat format writes control tokens, and never the text of a row.

A writer is given text in which every control token is *covered*: replaced by a mark that no
tokenizer knows. What it writes is split at its control tokens, and the marks are uncovered in the
pieces between them, which are encoded as plain text. Tokenizers split at these tokens too before
they merge anything, so the result equals that of encoding the whole text in one piece.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import tokenizers

COVER, COVER_END = "\ufdd0", "\ufdd1"
"""Around the number of a covered token. Unicode reserves these two code points for such use."""
MARKUP = frozenset(
    f"<{slash}{name}>"
    for slash in ("", "/")
    for name in ("think", "tool_call", "tool_response", "tool_result", "arg_key", "arg_value")
)
"""Tags that formats write around reasoning and tools, where a tokenizer has a token for them."""
BARS = frozenset("|\uff5c")
"""Upright bars, plain and full-width: control tokens are written with them."""
REMEMBERED_LENGTH, REMEMBERED_PIECES = 256, 20_000
"""Which pieces are kept between calls: headers, line breaks and system prompts repeat."""
_COVERED = re.compile(f"{COVER}(-|[0-9]+){COVER_END}")


class Encoder:
    """Encodes what a chat format writes, with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._ids = control_tokens(tokenizer)
        self._names = sorted(self._ids, key=len, reverse=True)
        self._number = {name: number for number, name in enumerate(self._names)}
        self._firsts = {name[0] for name in self._names} | {COVER}
        alternatives = "|".join(re.escape(name) for name in self._names) or r"(?!)"
        self._split = re.compile(f"({alternatives})")
        self._backend = _backend(tokenizer)
        self._known: dict[str, list[int]] = {}

    def cover(self, text: str) -> str:
        """Return TEXT with every control token in it replaced by a mark."""
        if not any(first in text for first in self._firsts):
            return text
        text = text.replace(COVER, f"{COVER}-{COVER_END}")
        return self._split.sub(lambda m: f"{COVER}{self._number[m[0]]}{COVER_END}", text)

    def uncover(self, text: str) -> str:
        """Return TEXT with the marks of `cover` replaced by what they cover."""
        if COVER not in text:
            return text
        return _COVERED.sub(lambda m: COVER if m[1] == "-" else self._names[int(m[1])], text)

    def control_token_in(self, text: str, among: Sequence[str]) -> str | None:
        """Return the first of AMONG that TEXT holds."""
        if not any(first in text for first in self._firsts):
            return None
        return next((name for name in among if name in text), None)

    def control_tokens_in(self, text: str) -> list[str]:
        """Return the control tokens of TEXT, each once, in their order."""
        return list(dict.fromkeys(self._split.findall(text)))

    def name_of(self, token: int) -> str:
        """Return the text of TOKEN, a control token."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of TEXT."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each of TEXTS; a piece that several of them hold is encoded once."""
        split = [self._split.split(text) for text in texts]
        known = self._known
        new: dict[str, list[int]] = {
            piece: [] for pieces in split for piece in pieces[::2] if piece not in known
        }
        new.pop("", None)
        if new:
            wanted = list(new)
            new = dict(zip(wanted, self._encode_pieces(wanted), strict=True))
        tokens = [self._joined(pieces, new) for pieces in split]
        if len(known) > REMEMBERED_PIECES:
            known.clear()
        known.update((p, ids) for p, ids in new.items() if len(p) <= REMEMBERED_LENGTH)
        return tokens

    def encode_rendered(self, text: str) -> list[int]:
        """Return the tokens of TEXT, in which control tokens are meant as such."""
        return self.encode(text)

    def _joined(self, pieces: list[str], new: dict[str, list[int]]) -> list[int]:
        joined: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                joined.append(self._ids[piece])
            elif piece:
                joined += new[piece] if piece in new else self._known[piece]
        return joined

    def _encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """Return the tokens of PIECES, none of which holds a control token that is not covered."""
        if self._backend is None:
            return [
                list(
                    self.tokenizer.encode(
                        self.uncover(piece), add_special_tokens=False, split_special_tokens=True
                    )
                )
                for piece in pieces
            ]
        covered = {piece: self.uncover(piece) for piece in pieces if COVER in piece}
        plain = [piece for piece in pieces if piece not in covered]
        batches = [(self._backend, plain, plain)]
        if covered:
            batches.append((self._literal, list(covered), list(covered.values())))
        found: dict[str, list[int]] = {}
        for backend, names, texts in batches:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            found.update(zip(names, (encoding.ids for encoding in encodings), strict=True))
        return [found[piece] for piece in pieces]

    @cached_property
    def _literal(self) -> Any:
        """A copy of the tokenizer that encodes control tokens as plain text.

        `encode_special_tokens` does so for special tokens only, so all control tokens become
        special. The copy takes a second or more, and few rows need it.
        """
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in described["added_tokens"]:
            token["special"] = token["content"] in self._ids
        literal = tokenizers.Tokenizer.from_str(json.dumps(described))
        literal.encode_special_tokens = True
        return literal


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the control tokens of TOKENIZER with their ids.

    These are its special tokens, and of its other added tokens those with a `|` and the tags of
    MARKUP: an added token can also be an ordinary word or a run of spaces.
    """
    return {
        token.content: int(token_id)
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content in MARKUP or BARS & set(token.content)
    }


def _backend(tokenizer: Any) -> tokenizers.Tokenizer | None:
    """Return what TOKENIZER encodes with, if that is of the `tokenizers` library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        return None
    backend.no_truncation()
    backend.no_padding()
    return backend
