"""Check every link of the Markdown documents: the file exists, and so does the heading."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
PARSER = MarkdownIt("commonmark").enable("table")


def documents() -> list[Path]:
    """Return the Markdown files that git tracks, and new ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in sorted(set(listed.stdout.split())) if (ROOT / name).exists()]


@cache
def tokens(page: Path) -> list[Token]:
    """Return the parsed blocks of PAGE."""
    return PARSER.parse(page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of PAGE's headings."""
    found: set[str] = set()
    blocks = tokens(page)
    for opening, content in pairwise(blocks):
        if opening.type != "heading_open":
            continue
        text = "".join(
            each.content for each in content.children or () if each.type in {"text", "code_inline"}
        )
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the target of each link and image of PAGE."""
    for block in tokens(page):
        line = block.map[0] + 1 if block.map else 1
        for each in block.children or ():
            target = each.attrGet("href") or each.attrGet("src")
            if target:
                yield line, str(target)


def findings(page: Path) -> Iterator[str]:
    """Yield a line for each dead link of PAGE."""
    shown = page.relative_to(ROOT)
    for line, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / unquote(path)).resolve() if path else page
        if not to.is_relative_to(ROOT) or not to.exists():
            yield f"{shown}:{line}: `{target}` does not exist"
        elif anchor and to.suffix == ".md" and anchor not in anchors(to):
            yield f"{shown}:{line}: `{target}`: the page has no such heading"


def main() -> int:
    """Print every dead link; return 1 if there is one."""
    found = [finding for page in documents() for finding in findings(page)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
