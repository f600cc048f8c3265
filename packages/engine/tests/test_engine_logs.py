"""The log of the engine: objects for programs, text for people, in the form that is asked for."""

import json
import logging
from collections.abc import Iterator

import pytest
from dreadnode_engine import logs
from dreadnode_engine.errors import Refused


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give the tests' own log back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_logs_are_json_lines_when_no_terminal_is_attached(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure({})
    try:
        int("why")
    except ValueError:
        logging.getLogger("dreadnode_engine.scheduling.run_queue").exception(
            "operation %d\nstopped", 7
        )

    [line] = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["time"].endswith("Z")
    assert (said["level"], said["logger"]) == ("error", "dreadnode_engine.scheduling.run_queue")
    assert said["message"] == "operation 7\nstopped"
    assert said["exception"].endswith("'why'")


def test_logs_are_text_when_text_is_requested(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure({"DREADNODE_LOG_FORMAT": "text"})
    logging.getLogger("dreadnode_engine").warning("the journal cannot be written")

    line = capfd.readouterr().err
    assert line.endswith("WARNING dreadnode_engine: the journal cannot be written\n")


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(Refused, match="must be `json` or `text`, not `xml`"):
        logs.configure({"DREADNODE_LOG_FORMAT": "xml"})
