"""What a refusal says of the form that a value must have, in place of a regular expression."""

from dreadnode_api.auth.schemas import EMAIL, NEW_KEY, ORGANIZATION_NAME, USERNAME
from dreadnode_api.datasets.schemas import NAME, SPLIT, VERSION
from dreadnode_api.http.deps import KEY

_WORDS = {
    KEY: "give letters, digits and hyphens only",
    NEW_KEY: "give lower-case letters, digits and hyphens, at most 63, and no hyphen first",
    USERNAME: "give letters, digits and `.`, `_`, `-`, at most 64, the first a letter or digit",
    EMAIL: "give one address, such as `ada@example.com`",
    ORGANIZATION_NAME: "give a name of one line without square brackets, at most 200 characters",
    NAME: "give lower-case letters, digits and `.`, `_`, `-`, at most 100, the first a letter "
    "or digit",
    SPLIT: "give lower-case letters, digits and `.`, `_`, `-`, at most 64, the first a letter "
    "or digit",
    VERSION: "give letters, digits and `.`, `+`, `-`, at most 64, the first a letter or digit, "
    "such as `1.0.0`",
    r"^sha256:[0-9a-f]{64}$": "give `sha256:` and 64 hexadecimal digits in lower case",
    r"^[^\x00]+$": "give some text, without null characters",
}


def words(pattern: str) -> str:
    """Return what to send where `pattern` must match."""
    return _WORDS.get(pattern, "this does not have the form that is needed; see `/docs`")
