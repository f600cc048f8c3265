"""Checks of data: shared by equal requests, bounded, warm, and ended with their last caller."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dreadnode_api.db import Database
from dreadnode_api.errors import TooManyRequests
from dreadnode_api.models.auth import Organization
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest, check_request
from dreadnode_api.training.checker import Checker, CheckFailed
from dreadnode_api.training.data import JobData
from dreadnode_api.training.preflight import Preflight

RUNTIME = Path(__file__).with_name("fake_runtime.py")
SETTINGS = {"learning_rate": 1e-4, "train_on": "all_assistant_messages", "epochs": 1}


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """Settings without a database."""
    return Settings(data_dir=tmp_path, runtime_command=(sys.executable, str(RUNTIME)))


@pytest.fixture
async def checker(own: Settings) -> AsyncIterator[Checker]:
    """A checker whose processes end with the test."""
    made = Checker(own)
    yield made
    await made.close()


def request_for(tmp_path: Path, *, code: bool = False, org: str = "o", **more: Any) -> CheckRequest:
    """A check whose process behaves as MORE says, with a user's own code if CODE is true."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n')
    config = {**SETTINGS, "system_prompt": json.dumps(more)}
    if code:
        config["reward_recipe"] = {"name": "python_v1", "params": {}}
    return keyed(JobData(files={"train": str(rows)}, sources=[]), org=org, **config)


def keyed(data: JobData, *, org: str = "o", model: str = "m", **config: Any) -> CheckRequest:
    return check_request(
        org,
        data,
        model=model,
        rehearsal=False,
        trained_model=model,
        tokenizer=None,
        trainer_type="sft",
        config=config,
    )


OTHERS: set[int] = set()
"""Child processes of the test run that were there before the test, such as a database server."""


@pytest.fixture(autouse=True)
def others() -> None:
    """Set the processes aside that other tests of this run have left running."""
    OTHERS.clear()
    OTHERS.update(each.pid for each in psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [each for each in found if each.pid not in OTHERS]


async def no_children() -> None:
    async with asyncio.timeout(20):
        while children():
            await asyncio.sleep(0.02)


async def test_a_report_is_returned_unchanged(checker: Checker, tmp_path: Path) -> None:
    result = await checker.run(request_for(tmp_path))

    assert result.report is not None
    assert (result.report["rows"], result.report["renderer"]) == (1, "fake")


async def test_a_second_check_uses_the_same_process(checker: Checker, tmp_path: Path) -> None:
    first, second = [await checker.run(request_for(tmp_path, check="process")) for _ in range(2)]

    assert first.error == second.error


async def test_a_process_that_ran_custom_code_is_not_reused(
    checker: Checker, tmp_path: Path
) -> None:
    request = request_for(tmp_path, code=True, check="process")

    first, second = [await checker.run(request) for _ in range(2)]

    assert first.error != second.error


async def test_a_process_that_ended_while_idle_is_replaced(
    checker: Checker, tmp_path: Path
) -> None:
    await checker.run(request_for(tmp_path))
    for child in children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    await asyncio.sleep(0.2)

    result = await checker.run(request_for(tmp_path))

    assert result.report is not None


async def test_files_written_by_a_check_are_gone_in_the_next_one(
    checker: Checker, tmp_path: Path
) -> None:
    await checker.run(request_for(tmp_path, check="write"))

    result = await checker.run(request_for(tmp_path, check="files"))

    assert result.error == "files: []"


async def test_a_check_with_endless_output_is_stopped_and_its_output_is_dropped(
    checker: Checker, tmp_path: Path
) -> None:
    before = psutil.Process().memory_info().rss

    with pytest.raises(CheckFailed):
        await checker.run(request_for(tmp_path, check="flood"))

    assert psutil.Process().memory_info().rss - before < 200_000_000
    await no_children()


async def test_a_check_that_takes_too_long_is_refused_and_stopped(
    own: Settings, tmp_path: Path
) -> None:
    checker = Checker(own.model_copy(update={"preflight_timeout": 1.0}))

    result = await checker.run(request_for(tmp_path, check="hang"))

    assert result.error is not None
    assert "took longer than 1 seconds" in result.error
    await no_children()


async def test_a_check_whose_processes_use_too_much_memory_is_refused_and_stopped(
    own: Settings, tmp_path: Path
) -> None:
    checker = Checker(own.model_copy(update={"job_memory_bytes": 160 * 2**20}))
    request = request_for(tmp_path, check="allocate", bytes=60 * 2**20, times=6)

    result = await checker.run(request)

    assert result.error is not None
    assert "needs more than the 167,772,160 bytes of memory" in result.error
    await no_children()


@pytest.mark.parametrize("behavior", ["crash", "garbage"])
async def test_a_failing_check_is_a_500_unless_it_ran_custom_code(
    checker: Checker, tmp_path: Path, behavior: str
) -> None:
    with pytest.raises(CheckFailed):
        await checker.run(request_for(tmp_path, check=behavior))

    result = await checker.run(request_for(tmp_path, code=True, check=behavior))

    assert result.error is not None
    assert "custom code" in result.error


async def test_a_check_that_cannot_be_started_is_a_500(own: Settings, tmp_path: Path) -> None:
    checker = Checker(own.model_copy(update={"runtime_command": ("/nowhere/python",)}))

    with pytest.raises(CheckFailed):
        await checker.run(request_for(tmp_path))


async def test_equal_checks_run_once_and_end_with_their_last_caller(
    own: Settings, database: Database, tmp_path: Path
) -> None:
    preflight = Preflight(own, database)
    log = tmp_path / "checks"
    request = request_for(tmp_path, check="hang-after-log", log=str(log))

    async def ask() -> None:
        with preflight.check(request) as running:
            await running.result()

    callers = [asyncio.create_task(ask()) for _ in range(3)]
    async with asyncio.timeout(20):
        while not log.exists():
            await asyncio.sleep(0.02)
    callers[0].cancel()
    callers[1].cancel()
    await asyncio.sleep(0.3)
    left = [child for child in children() if child.status() != psutil.STATUS_ZOMBIE]
    callers[2].cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert left
    assert len(log.read_text().splitlines()) == 1
    await no_children()
    await preflight.close()


async def test_a_check_that_cannot_start_in_time_is_refused_and_a_running_one_is_not(
    own: Settings, database: Database, tmp_path: Path
) -> None:
    preflight = Preflight(own.model_copy(update={"preflight_at_once": 1}), database)
    first, second = [request_for(tmp_path, check="hang", n=number) for number in range(2)]

    with preflight.check(first) as running, preflight.check(second) as waiting:
        unfinished = await running.result(0.3)
        with pytest.raises(TooManyRequests) as refused:
            await waiting.result(0.3)

    assert unfinished is None
    assert refused.value.headers["Retry-After"] == "5"
    await preflight.close()


async def test_an_organization_with_many_checks_does_not_delay_another(
    own: Settings, database: Database, tmp_path: Path
) -> None:
    preflight = Preflight(own.model_copy(update={"preflight_at_once": 2}), database)
    async with database.writing() as session:
        session.add(Organization(id="modest", slug="modest", name="Modest"))
    held = [request_for(tmp_path, org="greedy", check="hang", n=number) for number in range(6)]
    for request in held:
        preflight.join(request)
    await asyncio.sleep(0)

    with preflight.check(request_for(tmp_path, org="modest")) as running:
        result = await running.result(20)

    assert result is not None
    assert result.report is not None
    await preflight.close()


def test_the_checks_key_depends_on_data_and_relevant_settings(tmp_path: Path) -> None:
    def data(sha256: str) -> JobData:
        return JobData(files={"train": "x"}, sources=[{"role": "train", "sha256": sha256}])

    base = keyed(data("a"), **SETTINGS).key
    equal = [
        keyed(data("a"), **SETTINGS | {"learning_rate": 1.0, "seed": 7}).key,
    ]
    different = [
        keyed(data("b"), **SETTINGS).key,
        keyed(data("a"), org="other", **SETTINGS).key,
        keyed(data("a"), model="other", **SETTINGS).key,
        keyed(data("a"), **SETTINGS | {"train_on": "last_assistant_message"}).key,
        # Each decides which tokens are trained on, and so the price.
        keyed(data("a"), **SETTINGS | {"epochs": 9}).key,
        keyed(data("a"), **SETTINGS | {"steps": 9}).key,
        keyed(data("a"), **SETTINGS | {"steps": 9, "seed": 7}).key,
        keyed(data("a"), **SETTINGS | {"a_setting_of_the_future": 1}).key,
    ]

    assert set(equal) == {base}
    assert base not in different
    assert len(set(different)) == len(different)


def test_a_check_ends_with_the_process_that_runs_it(own: Settings, tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from dreadnode_api.models.auth import Organization
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import Checker
settings = Settings(data_dir=Path("."), runtime_command=(sys.executable, {str(RUNTIME)!r}))
request = CheckRequest.from_json({request_for(tmp_path, check="hang").to_json()!r})
asyncio.run(Checker(settings).run(request))
"""
    asking = subprocess.Popen([sys.executable, "-c", program])
    process = psutil.Process(asking.pid)
    until = time.monotonic() + 30
    # The supervisor, the check, and the process that the check has started.
    while len(checks := process.children(recursive=True)) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)

    asking.kill()
    asking.wait()

    _gone, alive = psutil.wait_procs(checks, timeout=20)
    for left in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    assert alive == []
