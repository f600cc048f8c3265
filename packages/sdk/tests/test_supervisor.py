"""The supervisor with real processes and signals; its programs are stand-ins of a few lines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dreadnode.errors import ServeError
from dreadnode.local_server.supervisor import Backoff, Program, Supervisor

Event = tuple[str, str]
WITHIN = 30.0

STAND_IN = """
import os, signal, sys, threading, time

name, behaviour = sys.argv[1:3]

def tell(event):
    with open("events", "a") as file:
        file.write(f"{name} {event} {os.getpid()}\\n")

def end(*_):
    tell("asked")
    if behaviour == "stubborn":
        return
    tell("stopped")
    os._exit(0)

def watch_lifeline():
    sys.stdin.buffer.read()
    tell("orphaned")
    os._exit(0)

signal.signal(signal.SIGTERM, end)
tell("started")
if behaviour == "broken":
    print("first words")
    sys.exit("no such model")
if behaviour != "silent":
    print("ready on somewhere", flush=True)
threading.Thread(target=watch_lifeline, daemon=True).start()
while True:
    time.sleep(3600)
"""


class Place:
    """Where a test's programs run and tell what happened to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "stand_in.py").write_text(textwrap.dedent(STAND_IN))

    def program(self, name: str, behaviour: str = "good", **options: float) -> Program:
        return Program(
            name,
            [sys.executable, str(self.folder / "stand_in.py"), name, behaviour],
            {"PATH": os.environ["PATH"]},
            self.folder,
            ready="ready on",
            **options,
        )

    @property
    def events(self) -> list[Event]:
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], line.split()[1]) for line in lines]

    @property
    def pids(self) -> list[int]:
        """The process of each start, in order."""
        lines = (self.folder / "events").read_text().splitlines()
        return [int(line.split()[2]) for line in lines if line.split()[1] == "started"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path)
    yield place
    if (tmp_path / "events").exists():
        for pid in place.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.02)


def supervisor(
    place: Place, *stages: list[Program], said: list[str] | None = None, **options: object
) -> Supervisor:
    options.setdefault("backoff", Backoff(first=0.05, longest=0.2))
    say = (said if said is not None else []).append
    return Supervisor(stages, place.folder / "logs", say=say, **options)  # type: ignore[arg-type]


async def test_stages_start_in_order_and_stop_in_reverse_order(place: Place) -> None:
    ready = asyncio.Event()
    running = supervisor(
        place, [place.program("engine"), place.program("api")], [place.program("dispatcher")]
    )
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)
    await until(lambda: ("dispatcher", "started") in place.events)

    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert [name for name, event in place.events if event == "started"][2] == "dispatcher"
    assert [name for name, event in place.events if event == "stopped"] == [
        "dispatcher",
        "api",
        "engine",
    ]
    assert not any(map(alive, place.pids))


async def test_a_program_that_dies_is_started_again_and_the_others_continue(place: Place) -> None:
    said: list[str] = []
    ready = asyncio.Event()
    running = supervisor(place, [place.program("engine"), place.program("api")], said=said)
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)

    for restarts in (1, 2, 3):
        engine = [pid for pid, name in started(place) if name == "engine"][-1]
        os.kill(engine, signal.SIGKILL)
        await until(lambda count=restarts: len(place.pids) == 2 + count)  # type: ignore[misc]

    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert [name for _, name in started(place)].count("api") == 1
    assert len(said) == 3
    assert said[0].startswith(
        "the engine stopped (killed by SIGKILL) and is started again; its log is "
    )
    assert not any(map(alive, place.pids))


def started(place: Place) -> list[tuple[int, str]]:
    names = [name for name, event in place.events if event == "started"]
    return list(zip(place.pids, names, strict=True))


async def test_a_program_that_never_becomes_ready_stops_everything_with_its_last_output(
    place: Place,
) -> None:
    running = supervisor(place, [place.program("engine", "broken"), place.program("api")])

    with pytest.raises(ServeError) as caught:
        await asyncio.wait_for(running.run(), WITHIN)

    sentence, *words = str(caught.value).splitlines()
    assert sentence.startswith("the engine did not start (exit code 1); its log is ")
    assert sorted(words) == ["  first words", "  no such model"]
    assert not any(map(alive, place.pids))


async def test_a_program_that_becomes_ready_too_late_stops_everything(place: Place) -> None:
    running = supervisor(place, [place.program("engine", "silent", start_within=0.5)])

    with pytest.raises(ServeError, match=r"was not ready within 0\.5 s"):
        await asyncio.wait_for(running.run(), WITHIN)

    assert not any(map(alive, place.pids))


async def test_a_program_that_does_not_stop_on_request_is_killed(place: Place) -> None:
    said: list[str] = []
    ready = asyncio.Event()
    running = supervisor(place, [place.program("engine", "stubborn", stop_within=0.3)], said=said)
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)

    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert ("engine", "asked") in place.events
    assert said == ["the engine did not stop in time and is killed"]
    assert not any(map(alive, place.pids))


async def test_a_second_stop_signal_stops_immediately(place: Place) -> None:
    ready = asyncio.Event()
    running = supervisor(place, [place.program("engine", "stubborn", stop_within=3600.0)])
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)

    running.stop()
    await until(lambda: ("engine", "asked") in place.events)
    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert not any(map(alive, place.pids))


async def test_stopping_during_the_start_leaves_no_process(place: Place) -> None:
    running = supervisor(place, [place.program("engine", "silent")], [place.program("api")])
    task = asyncio.create_task(running.run())
    await until(lambda: ("engine", "started") in place.events)

    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert [name for _, name in started(place)] == ["engine"]
    assert not any(map(alive, place.pids))


async def test_programs_end_when_the_supervisor_is_killed(place: Place) -> None:
    script = place.folder / "supervise.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from dreadnode.local_server.supervisor import Program, Supervisor

        def program(name):
            command = [sys.executable, {str(place.folder / "stand_in.py")!r}, name, "good"]
            return Program(name, command, {{}}, Path({str(place.folder)!r}), ready="ready on")

        stages = [[program("engine"), program("api")]]
        asyncio.run(Supervisor(stages, Path("logs"), say=print).run())
        """)
    )
    process = subprocess.Popen([sys.executable, script], cwd=place.folder)  # noqa: ASYNC220
    await until(lambda: len([1 for _, event in place.events if event == "started"]) == 2)

    process.kill()
    process.wait()
    await until(lambda: not any(map(alive, place.pids)))

    assert sorted(name for name, event in place.events if event == "orphaned") == ["api", "engine"]


async def test_output_is_appended_and_a_long_log_is_rotated(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = place.folder / "logs"
    logs.mkdir()
    for name, content in (("engine", "earlier\n"), ("api", "long\n" * 10)):
        (logs / f"{name}.log").write_text(content)
    monkeypatch.setattr("dreadnode.local_server.supervisor._LOG_LIMIT", 20)
    ready = asyncio.Event()
    running = supervisor(place, [place.program("engine"), place.program("api")])
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)
    running.stop()
    await asyncio.wait_for(task, WITHIN)

    assert (logs / "engine.log").read_text() == "earlier\nready on somewhere\n"
    assert (logs / "api.log").read_text() == "ready on somewhere\n"
    assert (logs / "api.log.1").read_text() == "long\n" * 10


async def test_the_log_of_a_running_program_stays_within_its_limit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreadnode.local_server.supervisor._LOG_LIMIT", 20)
    monkeypatch.setattr("dreadnode.local_server.supervisor._ROTATE_SECONDS", 0.05)
    log = place.folder / "logs" / "talker.log"
    command = ["sh", "-c", "echo ready on; read _; echo the first long line; read _; echo after"]
    talker = Program(
        "talker", command, {"PATH": os.environ["PATH"]}, place.folder, ready="ready on"
    )
    ready = asyncio.Event()
    running = supervisor(place, [talker])
    task = asyncio.create_task(running.run(when_ready=ready.set))
    await asyncio.wait_for(ready.wait(), WITHIN)
    pipe = running._running["talker"].stdin
    assert pipe is not None

    pipe.write(b"\n")
    await until(lambda: log.with_suffix(".log.1").exists() and log.stat().st_size == 0)
    pipe.write(b"\n")
    await until(lambda: log.read_text().startswith("after\n"))

    running.stop()
    await asyncio.wait_for(task, WITHIN)
    aside = log.with_suffix(".log.1").read_text()
    assert aside == "ready on\nthe first long line\n"


def test_delays_double_up_to_the_longest() -> None:
    delays = Backoff(first=1, longest=5).delays()

    assert [next(delays) for _ in range(5)] == [1, 2, 4, 5, 5]
