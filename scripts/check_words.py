"""Check the words that people read against the project's list of plain terms.

It covers messages of raised exceptions, `help=` and `description=` arguments, the docstrings of
commands, settings and flags, which are shown as help, the documents, and the names of tests. Source
is read with `ast`, so that each finding has a file and a line.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "packages/sdk/dreadnode",
    "packages/api/dreadnode_api",
    "packages/runtime/dreadnode_runtime",
    "packages/engine/dreadnode_engine",
)
DOCSTRINGS = (
    "packages/sdk/dreadnode/cli/",
    "packages/api/dreadnode_api/settings.py",
    "packages/engine/dreadnode_engine/settings.py",
)
"""Where docstrings, of classes, functions and attributes, are shown as help."""
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs")
UNCHANGED = ("docs/decisions/", "docs/reference/openapi.json")
"""Decisions are never edited, and generated files follow the source."""
TESTS = ("packages", "tests")
SPEAKING = {"say", "hint"}
"""Functions of the CLI that print their arguments."""

TERMS: tuple[tuple[str, str], ...] = (
    (r"draws?|drew|drawn", "sample, sampled"),
    (r"judges?|judged|judging", "score"),
    (r"earns?|earned", "get a reward"),
    (r"repetitions?", "retry"),
    (r"wish(es|ed)?", "request"),
    (r"tells?|told", "report, emit, name"),
    (r"(un)?proven", "verified, pending"),
    (r"go(es)? on|going on|went on|gone on", "resume, continue"),
    (r"lets? go|letting go|forgets?|forgotten|tid(y|ies|ied|ying)", "delete, release, clean up"),
    (r"lanes?", "queue"),
    (r"wardens?", "supervisor"),
    (r"promises?", "future"),
    (r"truth values?", "boolean"),
    (r"(?<!there )is no (?!longer|more)", "is not a"),
    (r"has that who|asked is for|such as there is", "a sentence with subject, verb and object"),
    (r"for nothing", "without cost, without effect"),
    (r"whatever|whoever|whichever", "any, each"),
    (r"by no fault|no fault of", "infrastructure failure"),
    (r"takes? (this|an?) .{0,20}'s word", "rejected this attempt's token"),
    (
        r"longest gradient|is no limit",
        "clip gradients to this norm; 0 disables clipping; unlimited",
    ),
    (r"going wrong", "Adam epsilon, added to the denominator"),
    (r"at its highest", "peak learning rate"),
    (r"times through the data", "number of epochs"),
    (r"which words of", "which messages contribute to the loss"),
    (r"adapter's start", "adapter initialization"),
    (r"have an address", "create a webhook"),
    (r"grow(s|n)? stale of itself|heirs?|hither|thereof|whereof|wherein", "a plain word"),
)
PATTERNS = tuple((re.compile(rf"\b(?:{term})\b", re.IGNORECASE), use) for term, use in TERMS)
QUOTED = re.compile(r"`[^`]*`")
TEST_NAME = re.compile(r"^\s*(?:async )?def (test_\w+)")
ALLOWED_IN_DOCUMENTS = re.compile(r"promises?", re.IGNORECASE)
"""A test's name is a promise; in the source it would be Tinker's future."""


def shown_texts(tree: ast.Module, *, docstrings: bool) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string in TREE that people are shown."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in (*node.exc.args, *(each.value for each in node.exc.keywords)):
                yield from _strings(argument)
        elif isinstance(node, ast.Call) and _name(node.func) in SPEAKING:
            for argument in node.args:
                yield from _strings(argument)
        elif isinstance(node, ast.keyword):
            if node.arg in {"help", "description"}:
                yield from _strings(node.value)
        elif docstrings and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from _strings(node.value)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            for offset, line in enumerate(each.value.split("\n")):
                yield each.lineno + offset, line


def findings(path: Path) -> Iterator[str]:
    """Yield a line for each term of the list that PATH shows to people."""
    shown = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, text in shown_texts(tree, docstrings=shown.startswith(DOCSTRINGS)):
        for pattern, use in PATTERNS:
            for found in pattern.finditer(QUOTED.sub("", text)):
                yield f"{shown}:{line}: `{found[0].strip()}`: write {use}"


def document_findings() -> Iterator[str]:
    """Yield a line for each term of the list in the documents."""
    for name in DOCUMENTS:
        paths = sorted((ROOT / name).rglob("*.md")) if name == "docs" else [ROOT / name]
        for path in paths:
            shown = path.relative_to(ROOT).as_posix()
            if shown.startswith(UNCHANGED):
                continue
            is_code = False
            for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                is_code ^= text.startswith("```")
                if not is_code:
                    yield from _found(shown, line, text)


def test_name_findings() -> Iterator[str]:
    """Yield a line for each term of the list in the name of a test."""
    for root in TESTS:
        for path in sorted((ROOT / root).rglob("test_*.py")):
            shown = path.relative_to(ROOT).as_posix()
            for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if name := TEST_NAME.match(text):
                    yield from _found(shown, line, name[1].replace("_", " "))


def _found(shown: str, line: int, text: str) -> Iterator[str]:
    for pattern, use in PATTERNS:
        for found in pattern.finditer(QUOTED.sub("", text)):
            if not ALLOWED_IN_DOCUMENTS.fullmatch(found[0]):
                yield f"{shown}:{line}: `{found[0].strip()}`: write {use}"


def main() -> int:
    """Print every finding; return 1 if there is one."""
    paths = (path for source in SOURCES for path in sorted((ROOT / source).rglob("*.py")))
    found = [finding for path in paths for finding in findings(path)]
    found += [*document_findings(), *test_name_findings()]
    print(*dict.fromkeys(found), sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
