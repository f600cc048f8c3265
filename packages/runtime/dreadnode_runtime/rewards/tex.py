r"""TeX markup of numbers, rewritten as plain text: `\frac{2}{3}` becomes `(2)/(3)`."""

import re

EXPRESSION = "\ufffc"
"""Stands for a formula that is not one number, such as a root."""

_ARGUMENT = r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\d))"
_FRACTION = re.compile(rf"\\[dtc]?frac(?![A-Za-z]){_ARGUMENT}{_ARGUMENT}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}(?!\s*\^)")
_UNIT_POWER = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*([A-Za-z]+)\s*\}\s*(?=\^)")
_FORMULA = re.compile(
    r"\\(?:sqrt|overline|binom|sum|prod|int|lim|log|ln|sin|cos|tan|exp|pi|infty|pm|mp)(?![A-Za-z])"
    r"(?:\s*\[[^\]]*\])?(?:\s*\{(?:[^{}]|\{[^{}]*\})*\})*"
)
_REPLACEMENTS = (
    (re.compile(r"\{([,.])\}"), r"\1"),
    (re.compile(r"\\[,!;:> ]|~|\\thinspace(?![A-Za-z])"), "\u2009"),
    (re.compile(r"\\(?:left|right|big|Big|displaystyle|quad|qquad)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\\[()\[\]]"), " "),
)


def plain_tex(text: str) -> str:
    """Return TEXT with the TeX of numbers as plain text, and `EXPRESSION` for other formulas."""
    if "\\" not in text and "{" not in text:
        return text
    text = _UNIT_POWER.sub(r" \1", _TEXT.sub(r" \1 ", text))
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = _FORMULA.sub(EXPRESSION, text)
    return _FRACTION.sub(_fraction, text)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` of TEXT, or None if there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    opening = text.find("{", start)
    if opening < 0 or text[start:opening].strip() not in ("\\boxed", "\\fbox"):
        found = re.match(r"\\f?box(?:ed)?\s+(\S+)", text[start:])
        return found[1].rstrip("$.,") if found else None
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[opening + 1 : position]
    return None


def _fraction(found: re.Match[str]) -> str:
    r"""Return a fraction of digits as `2/3`, so that `1\frac{2}{3}` is a mixed number."""
    top, bottom = (found[1] or found[2] or "").strip(), (found[3] or found[4] or "").strip()
    if top.isdecimal() and bottom.isdecimal():
        return f" {top}/{bottom} "
    return f" ({top})/({bottom}) "
