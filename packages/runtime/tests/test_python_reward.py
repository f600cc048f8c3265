"""A person's own code: what it may do, what it may not, and what becomes of a job when it fails."""

import asyncio
import os
import sys
from typing import Any

import psutil
import pytest
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.combinations import load_reward
from dreadnode_runtime.rewards.python_reward import PythonReward
from dreadnode_runtime.rewards.recipes import Completion, Score
from dreadnode_runtime.user_code.processes import ALLOWED, CodeFailed, Pool

PROMPT = Prompt(Conversation([]), 7, data={"weight": 2, "word": "hé"})
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux confines code")


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")


async def open_scoring(
    source: str, text: str = "abc", times: int = 1, **params: Any
) -> list[Score]:
    """Return what the function of SOURCE says of an answer, so many TIMES."""
    recipe = PythonReward(source=source, **{"processes": 1, **params})
    try:
        return [await recipe.score(Completion(PROMPT, text)) for _ in range(times)]
    finally:
        await recipe.close()


def body(*lines: str, imports: str = "") -> str:
    return "\n".join([imports, "def reward(answer, row):", *(f"    {line}" for line in lines)])


async def test_the_function_gets_the_completion_and_the_row() -> None:
    source = body("return len(answer) * row['weight'] + (row['word'] == 'hé')")

    assert await open_scoring(source) == [Score(7.0)]


async def test_its_module_is_loaded_once_and_may_use_installed_packages() -> None:
    source = body(
        "seen.append(1)",
        "return np.float32(len(seen))",
        imports="import numpy as np\nseen = []",
    )

    assert [score.value for score in await open_scoring(source, times=3)] == [1.0, 2.0, 3.0]


async def test_calls_run_in_parallel_processes() -> None:
    recipe = PythonReward(source=body("return os.getpid()", imports="import os"), processes=3)

    async with asyncio.timeout(60):
        scores = await asyncio.gather(*(recipe.score(Completion(PROMPT, "")) for _ in range(12)))
    pids = {psutil.Process(w._process.pid).pid for w in recipe._pool._workers}  # type: ignore[union-attr]
    await recipe.close()

    assert len(scores) == 12
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


FAILURES = {
    "raises": (body("x = 1", "return x / 0"), "ZeroDivisionError: division by zero (line 4 of"),
    "returns NaN": (body("return float('nan')"), "it returned nan, not a finite number"),
    "returns infinity": (body("return 1e999"), "it returned inf, not a finite number"),
    "returns too much": (body("return -1e300"), "it returned -1e+300, outside -1e+09 to 1e+09"),
    "returns nothing": (body("pass"), "it returned NoneType, not a number"),
    "returns a text": (body("return '1'"), "it returned str, not a number"),
    "hangs": (body("while True: pass"), "it took longer than 0.5 s"),
    "prints gigabytes": (body("while True: print('x' * 99999)"), "it printed or wrote more than"),
    "wants all the memory": (body("return len(bytearray(8 << 30))"), "MemoryError"),
    "exits": (body("raise SystemExit(0)"), "SystemExit: 0"),
    "ends its process": (body("os._exit(0)", imports="import os"), "it ended its process"),
    "answers in the place of the program": (
        body(
            "for n in range(3, 20):",
            "    try: os.write(n, b'nonsense\\n')",
            "    except OSError: pass",
            "return 1",
            imports="import os",
        ),
        "its process sent an invalid response",
    ),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_a_function_that_raises_fails_the_job_with_the_rows_number(how: str) -> None:
    source, reason = FAILURES[how]

    with pytest.raises(JobFailed) as failed:
        await open_scoring(source, timeout_sec=0.5 if how == "hangs" else 20)

    assert "The reward function failed on a completion for row 7, `abc`: " in str(failed.value)
    assert reason in str(failed.value)
    assert failed.value.code == "reward"


@pytest.mark.parametrize("how", ["raises", "hangs", "ends its process", "returns NaN"])
async def test_a_function_that_raises_is_counted_when_errors_are_allowed(how: str) -> None:
    broken = FAILURES[how][0].partition("def reward(answer, row):\n")
    source = f"{broken[0]}{broken[1]}    if answer == 'fine': return 1\n{broken[2]}"
    recipe = PythonReward(
        source=source, processes=1, timeout_sec=1, on_error="count", reward_on_error=-1
    )

    first, second = [await recipe.score(Completion(PROMPT, text)) for text in ("wrong", "fine")]
    await recipe.close()

    assert (first.value, second) == (-1.0, Score(1.0))
    assert first.error


async def test_output_is_limited_per_call_and_not_in_total() -> None:
    source = body("print('x' * 700_000)", "return 1")

    assert [score.value for score in await open_scoring(source, times=3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def reward(a, r) return 1", "SyntaxError: expected ':'"),
        ("def reword(a, r): return 1", "NameError: it defines no function `reward`"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise ValueError('at once')", "ValueError: at once (line 1 of reward.py)"),
    ],
)
async def test_source_that_cannot_be_loaded_is_refused(source: str, reason: str) -> None:
    recipe = PythonReward(source=source)

    with pytest.raises(JobFailed) as refused:
        await recipe.confinement()
    await recipe.close()

    assert f"The reward function cannot be loaded: {reason}" in str(refused.value)


async def test_its_environment_contains_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DREADNODE_API_KEY", "TINKER_API_KEY"):
        monkeypatch.setenv(name, "secret")
    source = body("return 'secret' in str(os.environ)", imports="import os")

    assert await open_scoring(source) == [Score(0.0)]


@linux
async def test_it_sees_only_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "secret")
    source = body(f"return len(open('/proc/{os.getpid()}/environ', 'rb').read())")

    with pytest.raises(JobFailed, match=r"row 7, `abc`: (PermissionError|FileNotFoundError)"):
        await open_scoring(source)


async def test_it_runs_only_where_an_administrator_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALLOWED, "0")

    with pytest.raises(ValueError, match="this server does not run custom code"):
        PythonReward(source=body("return 1"))


async def test_a_result_that_is_not_a_number_is_accepted_where_none_is_needed() -> None:
    source = "def echo(x): return {'said': x}\ndef bad(): return object()"
    pool = Pool(source, ["echo", "bad"], processes=1, memory_mb=512, seconds=5)

    assert await pool.call("echo", [1, None], number=False) == {"said": [1, None]}
    with pytest.raises(CodeFailed, match="cannot be written as JSON"):
        await pool.call("bad", number=False)
    await pool.close()


async def test_errors_name_the_file_and_the_completion() -> None:
    source = body("return 1 / len(answer)")

    with pytest.raises(JobFailed) as failed:
        await open_scoring(source, text="", filename="my_score.py")

    assert str(failed.value) == (
        "The reward function failed on a completion for row 7, ``: ZeroDivisionError: "
        "division by zero (line 3 of my_score.py)"
    )


@pytest.mark.parametrize(
    "source",
    [
        "def reward(answer, row): return 1.0",
        "def reward(answer, row):\n    return float(row['weight'])",
        "def reward(answer, row):\n    answer = 'fixed'\n    return 0.5",
        "def reward(a, row): return len(row)\ndef reward(b, row): return 2",
    ],
)
def test_a_function_that_does_not_read_the_completion_is_refused(source: str) -> None:
    recipe = {"name": "python_v1", "params": {"source": source}}

    with pytest.raises(JobFailed, match="gives all completions of a prompt the same reward"):
        load_reward(recipe)
    with pytest.raises(JobFailed, match="gives all completions of a prompt the same reward"):
        load_reward(
            {"name": "weighted_sum_v1", "params": {"terms": [{"weight": 1, "reward": recipe}]}}
        )


@pytest.mark.parametrize(
    "source",
    [
        "def reward(answer, row): return len(answer)",
        "def reward(*all): return len(all[0])",
        "reward = lambda answer, row: 1.0",
        "def reward(answer, row):\n    def inner(): return len(answer)\n    return inner()",
        "def reward(answer, row): return len(locals()['answer'])",
        "def reward(answer, row) return",
    ],
)
def test_a_function_that_may_read_the_completion_is_accepted(source: str) -> None:
    load_reward({"name": "python_v1", "params": {"source": source}})
