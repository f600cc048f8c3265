r"""Reads numbers out of text, exactly, in the forms that people and models write.

| form | examples |
| --- | --- |
| sign | `-7`, `−7`, `-$7`, `$-7`, `negative 7`; a hyphen between digits is not a sign |
| grouping | `1,234,567`, `1 234 567`, `1.234.567`, `1'234'567`, `1_234`, `12,34,567`, `1{,}234` |
| decimal | `3.14`, `.5`, `1,234.50`, `1.234,50` |
| fraction | `2/3`, `1 3/4`, `½`, `\frac{2}{3}`, `1\frac{3}{4}` |
| scientific | `4e2`, `4 × 10^2`, `4 \times 10^{-2}`, `10²` |
| scale | `2 million`, `5k`, `$5M` |
| unit | `6 m^2`, `$7`, `7 €`, `90°`: the unit is ignored |
| percent | `30%` equals both `30` and `0.3` |

A form with several readings is not a number: `12:45`, `3/4/2024`, `1.2.3`,
`3,14`, `2^10`, `\sqrt{2}`, `2\pi`, `±7`, `0.333…`.
"""

import itertools
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from dreadnode_runtime.rewards.tex import EXPRESSION, plain_tex

MAX_DIGITS = 1000
"""Digits of a number, and largest exponent: more is not read."""

_SPACE = " \u00a0\u2007\u2009\u202f"
_LETTER = "A-Za-z\u00b5\u0370-\u03ff"
_CURRENCY = r"(?:US\$|[$€£¥₹¢₩₽]|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|Rs\.?))"
_CORE = rf"(?:\d{{1,3}}(?:[{_SPACE}]\d{{3}})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,'_:]\d+)*|(?<![\w)])\.\d+)"
_EXPONENT = r"\{?\(?\s*[+-]?\d+\s*\)?\}?(?!\d)"
_SCALES = {"k": 3, "m": 6, "b": 9, "hundred": 2, "thousand": 3}
_SCALES |= {"million": 6, "billion": 9, "trillion": 12}

_TOKEN = re.compile(
    rf"""
    (?P<other> \d{{4}}-\d{{1,2}}-\d{{1,2}} | 0[xXbB][0-9A-Fa-f]+ | {EXPRESSION} | [√π∞]\s?\d* )
    | (?P<sign>[+-][{_SPACE}]?|\b(?:negative|minus)\s+)?
      (?P<currency>{_CURRENCY}[{_SPACE}]?)?
      (?P<inner>[+-](?=[\d.(]))?
      (?:
        (?P<mixed>\d+)[{_SPACE}]+(?P<top>\d+)/(?P<bottom>\d+)
        | \((?P<upper>[^()]*)\)/\((?P<lower>[^()]*)\)
        | (?P<core>{_CORE})
      )
      (?P<e>[eE][+-]?\d+(?!\w))?
      (?P<ten>\s?[×x*·]\s?10\s?(?:\^|\*\*){_EXPONENT})?
      (?P<power>\s?\^\s?{_EXPONENT}|\*\*(?=[\d(])-?{_EXPONENT})?
      (?P<slashes>(?:\s?/\s?{_CORE})*)
      (?P<scale>k(?![{_LETTER}\d])|[KMB](?![{_LETTER}\d])
        |[{_SPACE}-]?(?:hundred|thousand|million|billion|trillion)\b)?
      (?P<percent>\s?(?:%|percent\b|per\ cent\b))?
    | (?P<word>[{_LETTER}]+(?:_?\{{?\d[\w.]*\}}?)?(?:(?:\^|\*\*){_EXPONENT})?)
    """,
    re.VERBOSE,
)
"""A number, a numeric form that is not one number, or a word with the digits that belong to it."""

_DECIMALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<whole>\d+)(?:\.(?P<part>\d+))?",
        r"(?P<whole>)\.(?P<part>\d+)",
        r"(?P<whole>[1-9]\d{0,2}(?:,\d{3})+)(?:\.(?P<part>\d+))?",
        r"(?P<whole>[1-9]\d?(?:,\d{2})+,\d{3})(?:\.(?P<part>\d+))?",
        rf"(?P<whole>[1-9]\d{{0,2}}(?:[{_SPACE}]\d{{3}})+)(?:[.,](?P<part>\d+))?",
        r"(?P<whole>[1-9]\d{0,2}(?:'\d{3})+)(?:[.,](?P<part>\d+))?",
        r"(?P<whole>[1-9]\d{0,2}(?:_\d{3})+)(?:\.(?P<part>\d+))?",
        r"(?P<whole>[1-9]\d{0,2}(?:\.\d{3})+),(?P<part>\d+)",
        r"(?P<whole>[1-9]\d{0,2}(?:\.\d{3}){2,})(?P<part>)",
    )
)
"""Digits with grouping and decimals: each pattern allows one reading only."""

_VARIABLE_BEFORE = re.compile(r"(?<![A-Za-z])[A-Za-z]\s?[+*/^-]\s?$")
_VARIABLE_AFTER = re.compile(r"[xyznij](?![A-Za-z])|\s?[+*-]\s?[A-Za-z](?![A-Za-z])")

_CHARACTERS = str.maketrans(
    dict.fromkeys("−﹣－‐‑–", "-") | {"＋": "+", "⁄": "/", "∕": "/", "’": "'", "⋅": "·", "％": "%"}
)
_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")


@dataclass(frozen=True, slots=True)
class Number:
    """One number.

    Attributes:
        value: The exact value; of `30%`, 30.
        percent: Whether a percent sign follows it.
    """

    value: Fraction
    percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Whether both are the same number; a percent sign on one side can mean hundredths."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        percent, plain = (self, other) if self.percent else (other, self)
        return percent.value / 100 == plain.value


def first_number(text: str) -> Number | None:
    """Return the first number of TEXT; None if there is none, or if it is not a single number."""
    text = _normalized(text)
    token = next(_tokens(text), None)
    return None if token is None else _number(token, text)


def last_number(text: str) -> Number | None:
    """Return the last number of TEXT; None if there is none, or if it is not a single number."""
    text = _normalized(text)
    tokens = deque(_tokens(text), maxlen=1)
    return _number(tokens[0], text) if tokens else None


def single_number(text: str) -> Number | None:
    """Return the number of TEXT, if it has exactly one."""
    text = _normalized(text)
    tokens = [*itertools.islice(_tokens(text), 2)]
    return _number(tokens[0], text) if len(tokens) == 1 else None


def has_digits(text: str) -> bool:
    """Whether TEXT has a number or another numeric form."""
    return next(_tokens(_normalized(text)), None) is not None


def _tokens(text: str) -> Iterator[re.Match[str]]:
    """Yield numbers and other numeric forms, without words and the digits that belong to them."""
    return (token for token in _TOKEN.finditer(text) if token["word"] is None)


def _normalized(text: str) -> str:
    """Return TEXT with plain TeX, ASCII digits, and one form of each minus and exponent."""
    text = plain_tex(text.translate(_CHARACTERS))
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    return "".join(char if char.isascii() else _ascii_digits(char) for char in text)


def _ascii_digits(char: str) -> str:
    """Return CHAR, or its ASCII form if it is a digit or a fraction."""
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    form = unicodedata.normalize("NFKC", char).replace("⁄", "/")
    return f" {form}" if category == "No" and "/" in form else char


def _number(token: re.Match[str], text: str) -> Number | None:
    if token["other"] is not None or len(token[0]) > MAX_DIGITS:
        return None
    after = text[token.end() : token.end() + 3]
    if _is_in_formula(token, text):
        return None
    if after.startswith(("...", "…")) and "." in (token["core"] or ""):
        return None
    value = _unsigned(token)
    if value is None:
        return None
    return Number(-value if _is_negative(token, text) else value, token["percent"] is not None)


def _is_in_formula(token: re.Match[str], text: str) -> bool:
    """Whether TOKEN is a part of a formula, such as `2x + 1`, `1 - i` or a root."""
    before = _before(token, text) + (token["sign"] or "")
    after = text[token.end() : token.end() + 6]
    if before.rstrip(_SPACE).endswith(("±", "∓", "√")) or after[:1] in (EXPRESSION, "√", "π", "^"):
        return True
    return bool(_VARIABLE_BEFORE.search(before) or _VARIABLE_AFTER.match(after))


def _unsigned(token: re.Match[str]) -> Fraction | None:
    """Return the value of TOKEN without its signs."""
    if token["mixed"] is not None:
        top, bottom = int(token["top"]), int(token["bottom"])
        value = int(token["mixed"]) + Fraction(top, bottom) if 0 < top < bottom else None
    elif token["upper"] is not None:
        value = _divide(_signed(token["upper"]), _signed(token["lower"]))
    else:
        value = _decimal(token["core"])
        for divisor in re.split(r"\s?/\s?", token["slashes"])[1:]:
            value = _divide(value, _decimal(divisor))
        if token["slashes"].count("/") > 1:
            value = None
    if value is not None and token["power"]:
        value = Fraction(1) if value == 10 else None
    return None if value is None else _scaled(value, token)


def _scaled(value: Fraction, token: re.Match[str]) -> Fraction | None:
    """Return VALUE times the powers of ten that TOKEN has behind it."""
    exponent = 0
    for name in ("e", "ten", "power"):
        if written := token[name]:
            digits = re.sub(r"^\s?[×x*·]\s?10", "", written)
            exponent += int(re.sub(r"[^\d+-]", "", digits))
    if scale := token["scale"]:
        if scale in "KMB" and token["currency"] is None:
            return None
        exponent += _SCALES[scale.strip(_SPACE + "-").lower()]
    return value * Fraction(10) ** exponent if abs(exponent) <= MAX_DIGITS else None


def _is_negative(token: re.Match[str], text: str) -> bool:
    """Whether TOKEN has a minus that is a sign, not a hyphen, an operator or a list's bullet."""
    if token["inner"] == "-":
        return True
    sign = token["sign"]
    if sign is None or sign.startswith("+"):
        return False
    before = _before(token, text)
    close, near = before[-1:], before.rstrip(_SPACE)[-1:]
    if sign[0] != "-":
        return not (near.isdigit() or near == ")")
    if sign == "-":
        return not (close.isalnum() or close in (")", "]", "}", "%", "-"))
    return near in ("", "=", "≈", "(", "{", "<", ">", "≤", "≥", "$")


def _before(token: re.Match[str], text: str) -> str:
    """Return a few characters before TOKEN; a longer slice would make long texts quadratic."""
    return text[max(token.start() - 8, 0) : token.start()]


def _signed(text: str) -> Fraction | None:
    sign, digits = re.match(r"\s*([+-]?)\s*(.*?)\s*$", text, re.DOTALL).groups()  # type: ignore[union-attr]
    value = _decimal(digits)
    return -value if value is not None and sign == "-" else value


def _divide(top: Fraction | None, bottom: Fraction | None) -> Fraction | None:
    return None if top is None or not bottom else top / bottom


def _decimal(text: str) -> Fraction | None:
    """Return the value of digits with grouping and decimals, if there is one reading."""
    for pattern in _DECIMALS:
        if found := pattern.fullmatch(text):
            whole, part = re.sub(r"\D", "", found["whole"]), found["part"] or ""
            return Fraction(int(f"{whole}{part}"), 10 ** len(part))
    return None
