"""Show how the catalog differs from what Tinker publishes; with ``--write``, bring it up to date.

The source is a URL or a file of the shape of Tinker's public ``models.json``.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from dreadnode.catalog.published import SourceError, read
from dreadnode.catalog.refresh import refresh
from dreadnode.catalog.source import replace_table
from dreadnode.training import TINKER_MODELS, models

LARGEST = 8 * 1024 * 1024
# Tinker's documentation site turns Python's own name away.
AGENT = {"User-Agent": "dreadnode-catalog-refresh/1", "Accept": "application/json"}


def fetch(source: str) -> str:
    """Return the text at SOURCE, a URL or a path.

    Raises:
        SourceError: When it cannot be read, or is larger than such a list can be.
    """
    try:
        if source.startswith(("https://", "http://")):
            with urlopen(Request(source, headers=AGENT), timeout=30) as answer:  # noqa: S310
                raw = answer.read(LARGEST + 1)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(LARGEST + 1)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise SourceError(f"{source} cannot be read: {reason}") from None
    if len(raw) > LARGEST:
        raise SourceError(f"{source} is larger than any list of models")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceError(f"{source} is not UTF-8") from None


def main(arguments: list[str]) -> int:
    """Show the differences and return 0, or 1 when the source is not to be believed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="a URL or a file")
    parser.add_argument("--write", action="store_true", help="write the catalog's source file")
    parser.add_argument(
        "--day", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the ISO day to note"
    )
    parser.add_argument("--into", type=Path, default=Path(models.__file__), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.source:
        parser.error("name a source: `make catalog-refresh SOURCE=url-or-file`")
    try:
        found = refresh(TINKER_MODELS, read(fetch(given.source)), given.day)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in (*found.lines, *found.by_hand):
        print(line)
    if not found.lines and not found.by_hand:
        print("no difference")
    if given.write:
        text = replace_table(given.into.read_text(encoding="utf-8"), found.models, given.day)
        written = given.into.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.replace(given.into)
        print(f"wrote {given.into.name}; now run `make catalog-mirror` and the tests")
    elif found.lines:
        print("nothing was written; `WRITE=1` writes it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
