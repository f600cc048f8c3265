"""The copy of the catalog beside the routes is the SDK's text, and stands alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_apis_copy_of_the_catalog_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "mirror_catalog.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_copy_works_without_the_sdk() -> None:
    probe = (
        "import sys; from app.training import catalog;"
        "found = catalog.suggest_training_models('Qwen/Qwen3-8', limit=2);"
        "total = catalog.search_training_models(family='qwen').total;"
        "print(*(model.tinker_id for model in found), total, 'dreadnode' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout

    assert said == "Qwen/Qwen3-8B Qwen/Qwen3-8B-Base 20 False\n"
