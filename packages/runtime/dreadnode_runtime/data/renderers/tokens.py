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
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tokenizers

Piece = str | int
"""A text without control tokens, or one control token."""
Tokens = npt.NDArray[np.int32]
"""Token ids, of shape (T,)."""
_NOTHING: Tokens = np.zeros(0, np.int32)
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
        self._control: dict[Piece, Tokens] = {
            token: np.array([token], np.int32) for token in self._ids.values()
        }
        self._known = dict(self._control)

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

    def is_plain(self, text: str) -> bool:
        """Return whether TEXT can neither hold a control token nor a mark."""
        return not any(first in text for first in self._firsts)

    def split(self, text: str) -> list[Piece]:
        """Return TEXT as its control tokens and the pieces between them."""
        split = self._split.split(text)
        return [
            self._ids[piece] if index % 2 else piece
            for index, piece in enumerate(split)
            if piece or index % 2
        ]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of TEXT."""
        tokens: list[int] = self.encode_many([self.split(text)])[0].tolist()
        return tokens

    def encode_many(self, texts: Sequence[Sequence[Piece]]) -> list[Tokens]:
        """Return the tokens of each of TEXTS; a piece that several of them hold is encoded once.

        Each is int32 of shape (T,).
        """
        known = self._known
        new = [piece for piece in dict.fromkeys(chain.from_iterable(texts)) if piece not in known]
        if new:
            # Control tokens are always known, so only text is new.
            known.update(zip(new, self._encode_pieces(cast("list[str]", new)), strict=True))
        tokens = [
            np.concatenate([known[piece] for piece in pieces]) if pieces else _NOTHING
            for pieces in texts
        ]
        if len(known) > REMEMBERED_PIECES:
            self._known = dict(self._control)
        else:
            for piece in new:
                if len(cast("str", piece)) > REMEMBERED_LENGTH:
                    del known[piece]
        return tokens

    def encode_rendered(self, text: str) -> list[int]:
        """Return the tokens of TEXT, in which control tokens are meant as such."""
        return self.encode(text)

    def _encode_pieces(self, pieces: list[str]) -> list[Tokens]:
        """Return the tokens of PIECES, none of which holds a control token that is not covered."""
        if self._backend is None:
            return [
                np.array(
                    self.tokenizer.encode(
                        self.uncover(piece), add_special_tokens=False, split_special_tokens=True
                    ),
                    np.int32,
                )
                for piece in pieces
            ]
        covered = {piece: self.uncover(piece) for piece in pieces if COVER in piece}
        plain = [piece for piece in pieces if piece not in covered]
        batches = [(self._backend, plain, plain)]
        if covered:
            batches.append((self._literal, list(covered), list(covered.values())))
        found: dict[str, Tokens] = {}
        for backend, names, texts in batches:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            arrays = (np.array(encoding.ids, np.int32) for encoding in encodings)
            found.update(zip(names, arrays, strict=True))
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
