"""The patterns of names and ids, each with the sentence that explains it in an error."""

SLUG = r"^[A-Za-z0-9-]+$"
NEW_SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$"
USERNAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]+@[A-Za-z0-9][A-Za-z0-9.-]*$"
# Clients show it, and read square brackets as markup.
ORGANIZATION_NAME = r"^[^\[\]\x00-\x1f\x7f]{1,200}$"
NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"
VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$"
SPLIT = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
TEXT = r"^[^\x00]+$"

_EXPLANATIONS = {
    SLUG: "use letters, digits and hyphens only",
    NEW_SLUG: "use at most 63 lower-case letters, digits and hyphens, not starting with a hyphen",
    USERNAME: "use at most 64 letters, digits, `.`, `_` and `-`, starting with a letter or digit",
    EMAIL: "give one address, such as `ada@example.com`",
    ORGANIZATION_NAME: "give a name of one line without square brackets, at most 200 characters",
    NAME: "use at most 100 lower-case letters, digits, `.`, `_` and `-`, starting with a letter "
    "or digit",
    SPLIT: "use at most 64 lower-case letters, digits, `.`, `_` and `-`, starting with a letter "
    "or digit",
    VERSION: "use at most 64 letters, digits, `.`, `+` and `-`, starting with a letter or digit, "
    "such as `1.0.0`",
    DIGEST: "give `sha256:` and 64 hexadecimal digits in lower case",
    TEXT: "give text without null characters",
}


def explain(pattern: str) -> str:
    """Return what to send for a value that must match PATTERN."""
    return _EXPLANATIONS.get(pattern, "the value does not have the required form; see `/docs`")
