"""The four packages as wheels, installed together outside of the checkout."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from .server import MODEL, Server

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sdk", "api", "runtime", "engine")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `dn` of an environment that has our wheels, and third-party packages from this one."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    sources = [str(ROOT / "packages" / name) for name in PACKAGES]
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run([*pip, *build, *sources], check=True)
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    wheels = [str(wheel) for wheel in folder.glob("*.whl")]
    assert len(wheels) == len(PACKAGES)
    install = ("--python", str(python), "install", "--no-deps", "--no-index")
    subprocess.run([*pip, *install, *wheels], check=True)
    # A folder that a .pth file names has its own .pth files ignored: the editable installs of the
    # checkout stay out of sight.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib"))
    return python.with_name("dn")


def test_wheels_contain_their_license(installed: Path) -> None:
    site = next(installed.parents[1].glob("lib/python*/site-packages"))

    assert len(list(site.glob("dreadnode_training*.dist-info/licenses/LICENSE"))) == len(PACKAGES)


def test_a_rehearsal_runs_with_wheels_outside_the_checkout(
    installed: Path, tmp_path: Path, tiny_model: Path
) -> None:
    server = Server(tmp_path, tiny_model, program=installed)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Ahoy?", "response": "Ahoy!"}\n' * 4)
    server.start()
    try:
        pushed = server.dn("dataset", "push", "rows.jsonl", "rows@1.0.0")
        trained = server.dn(
            *("train", "sft", "--model", MODEL, "--dataset", "rows@1.0.0"),
            *("--rehearse", "--steps", "2", "--batch-size", "2", "--wait"),
        )
        lines = [" ".join(process.cmdline()) for process in server.processes()]
    finally:
        code = server.stop()

    assert (pushed.code, trained.code, code) == (0, 0, 0), trained.err
    assert "completed" in trained.out
    assert not [line for line in lines if str(ROOT / "packages") in line]
