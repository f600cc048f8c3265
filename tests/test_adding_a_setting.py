"""Adding a setting is one edit and `make docs`: tried on a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SFT = "packages/api/dreadnode_api/training/sft_schemas.py"
PLACE = "    train_on: Annotated["
SETTING = """\
    label_smoothing: Annotated[float | None, TRAINING, Needs("steps")] = Field(
        0.05, ge=0, lt=1, description="Label smoothing of the loss."
    )
"""


@dataclass(frozen=True)
class Changed:
    """A copy of the project with one setting more and one edited page, and what the check says."""

    project: Path
    edited: str
    checked: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    project = tmp_path_factory.mktemp("project")
    # The bytecode comes along: compiling everything anew would take seconds. A file that a process
    # is writing has its own number behind `.pyc`.
    ignored = shutil.ignore_patterns("tests", ".*", "*.pyc.*")
    for name in ("packages/api", "packages/sdk", "packages/engine", "scripts", "docs"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", project)
    source = (project / SFT).read_text()
    (project / SFT).write_text(source.replace(PLACE, SETTING + PLACE))
    page = project / "docs/reference/rl.md"
    lines = page.read_text().splitlines(keepends=True)
    (number,) = (n for n, line in enumerate(lines, 1) if line.startswith("| `group_size` "))
    lines[number - 1] = lines[number - 1].replace("`8`", "`4`")
    page.write_text("".join(lines))
    edited = f"docs/reference/rl.md:{number}: differs from the code: run `make docs`"
    return Changed(project, edited, run(project, "scripts/make_docs.py", "--check"))


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    packages = [str(project / "packages" / name) for name in ("api", "sdk", "engine")]
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_edited_generated_file_is_named_with_its_line(changed: Changed) -> None:
    assert changed.checked.returncode == 1
    assert changed.edited in changed.checked.stdout.splitlines()


def test_a_setting_added_to_the_request_model_reaches_every_generated_place(
    changed: Changed,
) -> None:
    project, checked = changed.project, changed.checked
    written = run(project, "scripts/make_docs.py")
    checked_again = run(project, "scripts/make_docs.py", "--check")

    assert checked.returncode == 1, checked
    named = [line.split(":")[0] for line in checked.stdout.splitlines()]
    assert "packages/sdk/dreadnode/cli/train/sft_flags.py" in named
    assert all(line.split(":")[1].isdigit() for line in checked.stdout.splitlines())
    assert written.returncode == 0, written
    assert (checked_again.returncode, checked_again.stdout) == (0, "")

    schema = json.loads((project / "packages/sdk/dreadnode/training/job_schema.json").read_text())
    (described,) = (e for e in schema["sft"]["config"] if e["name"] == "label_smoothing")
    assert described == {
        "name": "label_smoothing",
        "kind": "number",
        "help": "Label smoothing of the loss.",
        "group": "Training",
        "default": 0.05,
        "needs": "steps",
        "minimum": 0,
        "exclusiveMaximum": 1,
    }
    table = (project / "docs/reference/sft.md").read_text()
    assert (
        "| `label_smoothing` | number | `0.05` | at least 0, below 1 | "
        "Label smoothing of the loss. Needs `steps`. |"
    ) in table
    shown = run(project, "-m", "dreadnode", "train", "sft", "--help").stdout
    assert "--label-smoothing FLOAT" in shown
    assert "Label smoothing of the loss. Needs `--steps`. [default: 0.05]" in " ".join(
        shown.split()
    )
    refused = run(
        project,
        *("-m", "dreadnode", "train", "sft", "--server", "http://127.0.0.1:9", "--api-key", "dn_x"),
        *("--model", "m", "--dataset", "a@1", "--label-smoothing", "1"),
    )
    assert "error: `--label-smoothing` must be below 1, not 1.0" in refused.stderr
    typed = "from dreadnode.training.jobs import SftConfig as C; print(C(label_smoothing=0.1))"
    assert "label_smoothing=0.1" in run(project, "-c", typed).stdout
    resolved = (
        "from dreadnode_api.training.defaults import complete as c; "
        "print(c('sft', {'max_sequence_length': 8})['label_smoothing'])"
    )
    assert run(project, "-c", resolved).stdout == "0.05\n"
