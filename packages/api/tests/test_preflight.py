"""The process that checks data: bounded in all it may take, and gone with whoever asked."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_api.errors import Invalid
from dreadnode_api.settings import Settings
from dreadnode_api.training.preflight import CheckFailed, Preflight

RUNTIME = Path(__file__).with_name("fake_runtime.py")


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """Settings without a database."""
    return Settings(data_dir=tmp_path, runtime_command=(sys.executable, str(RUNTIME)))


def question(tmp_path: Path, **wish: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n')
    return {
        "config": {"system_prompt": json.dumps(wish)},
        "datasets": {"train": str(rows)},
    }


async def test_a_report_comes_back_as_it_was_given(own: Settings, tmp_path: Path) -> None:
    report = await Preflight(own).check(question(tmp_path))

    assert (report["rows"], report["usable"], report["renderer"]) == (1, 1, "fake")


async def test_a_check_that_prints_without_end_is_ended_and_not_kept(
    own: Settings, tmp_path: Path
) -> None:
    preflight = Preflight(own.model_copy(update={"preflight_timeout": 2.0}))
    before = psutil.Process().memory_info().rss

    with pytest.raises(Invalid, match="took longer"):
        await preflight.check(question(tmp_path, check="flood"))

    assert psutil.Process().memory_info().rss - before < 200_000_000
    assert psutil.Process().children(recursive=True) == []


async def test_a_check_that_crashes_is_our_bug(own: Settings, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the check broke"):
        await Preflight(own).check(question(tmp_path, check="crash"))


async def test_a_check_that_cannot_be_started_is_our_bug(own: Settings, tmp_path: Path) -> None:
    preflight = Preflight(own.model_copy(update={"runtime_command": ("/nowhere/python",)}))

    with pytest.raises(CheckFailed):
        await preflight.check(question(tmp_path))


async def test_checks_run_a_bounded_number_at_once(own: Settings, tmp_path: Path) -> None:
    preflight = Preflight(own.model_copy(update={"preflight_at_once": 1, "preflight_timeout": 1.0}))
    asked = question(tmp_path, check="hang")
    began = time.monotonic()

    ended = await asyncio.gather(
        *(preflight.check(asked) for _ in range(2)), return_exceptions=True
    )

    assert [type(each) for each in ended] == [Invalid, Invalid]
    assert time.monotonic() - began >= 2


def test_a_check_dies_with_whoever_asked_for_it(own: Settings, tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from dreadnode_api.settings import Settings
from dreadnode_api.training.preflight import Preflight
settings = Settings(data_dir=Path("."), runtime_command=(sys.executable, {str(RUNTIME)!r}))
asyncio.run(Preflight(settings).check({question(tmp_path, check="hang")!r}))
"""
    asking = subprocess.Popen([sys.executable, "-c", program])
    process = psutil.Process(asking.pid)
    until = time.monotonic() + 30
    while not any("check" in child.cmdline() for child in process.children()):
        assert time.monotonic() < until
        time.sleep(0.05)
    checks = process.children()
    beneath = [each for check in checks for each in check.children(recursive=True)]

    asking.kill()
    asking.wait()

    _gone, alive = psutil.wait_procs(checks, timeout=10)
    for left in [*alive, *beneath]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    assert alive == []
