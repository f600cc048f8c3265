"""`make check` names the file and the line of each fault in words, links and dependencies."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEPTRY = Path(sys.executable).with_name("deptry")
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def script(name: str, root: Path) -> Any:
    """Load a script of `scripts/`, with ROOT as the project that it checks."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = root  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise ValueError(f"`{1}` is no setting")', "`is no`"),
        ('x = Field(description="Which words of a row are learned")', "`Which words of`"),
        ('hint("the warden ends it")', "`warden`"),
        ('"""A command.\n\nIt draws an answer.\n"""', "`draws`"),
    ],
)
def test_a_forbidden_word_in_a_shown_text_is_named_with_file_and_line(
    tmp_path: Path, source: str, found: str
) -> None:
    module = tmp_path / "packages" / "sdk" / "dreadnode" / "cli" / "x.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"y = 1\n{source}\n")

    [finding] = script("check_words", tmp_path).findings(module)

    line = 4 if source.startswith('"""') else 2
    assert finding.startswith(f"packages/sdk/dreadnode/cli/x.py:{line}: {found}")


def test_quoted_values_and_comments_may_contain_any_word(tmp_path: Path) -> None:
    module = tmp_path / "x.py"
    module.write_text('raise ValueError("unknown role `warden`")  # as the warden says\n')

    assert not list(script("check_words", tmp_path).findings(module))


@pytest.mark.parametrize(
    ("target", "dead"),
    [
        ("other.md", False), ("other.md#a-heading", False), ("#here", False),
        ("missing.md", True), ("other.md#nothing", True), ("../outside.md", True),
    ],
)  # fmt: skip
def test_a_dead_link_is_named_with_file_and_line(tmp_path: Path, target: str, dead: bool) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n\nSee [it]({target}).\n")
    (tmp_path / "other.md").write_text("# A heading\n")

    found = list(script("check_links", tmp_path).findings(page))

    assert [finding.split(" ")[0] for finding in found] == (["page.md:3:"] if dead else [])


def test_an_undeclared_import_is_named_with_file_and_line(tmp_path: Path) -> None:
    package = tmp_path / "engine"
    shutil.copytree(ROOT / "packages" / "engine" / "dreadnode_engine", package / "dreadnode_engine")
    shutil.copy(ROOT / "packages" / "engine" / "pyproject.toml", package)
    (package / "dreadnode_engine" / "extra.py").write_text("\nimport rich\n")

    ran = subprocess.run(
        [DEPTRY, "--no-ansi", "."], cwd=package, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1
    assert "dreadnode_engine/extra.py:2:8: DEP003 'rich'" in ran.stdout + ran.stderr


def test_a_wrong_layer_is_named_with_file_and_line(tmp_path: Path) -> None:
    for name in ("sdk", "api", "runtime", "engine"):
        shutil.copytree(
            ROOT / "packages" / name,
            tmp_path / "packages" / name,
            ignore=shutil.ignore_patterns("tests", "__pycache__"),
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    wrong = tmp_path / "packages" / "engine" / "dreadnode_engine" / "wrong.py"
    wrong.write_text("import dreadnode_runtime\n")
    folders = [tmp_path / "packages" / name for name in ("sdk", "api", "runtime", "engine")]

    ran = subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "dreadnode_engine.wrong -> dreadnode_runtime (l.1)" in ran.stdout


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    existing = {file: _tests(ROOT / file) for file, _ in named}

    assert len(named) > 40
    assert [f"{file}::{name}" for file, name in named if name not in existing[file]] == []


def _tests(file: Path) -> set[str]:
    """Return the names of the tests in a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in nodes if isinstance(node, kinds)}
