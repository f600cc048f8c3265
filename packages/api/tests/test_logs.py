"""What the service writes into its log: for programs, for people, and never a key."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dreadnode_api import logs
from dreadnode_api.settings import Settings, SettingsError

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Output = Callable[..., io.StringIO]
KEY = "dn_" + "Ab-9_" * 8 + "xyz"


class Terminal(io.StringIO):
    """What a person sits at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    """Configure the log of this process, and return what it writes to."""
    root = logging.getLogger()
    kept = root.level, root.handlers[:]
    # `force=True` closes and removes what pytest listens with; it is put back at the end.
    root.handlers[:] = []

    def configure(stream: io.StringIO, form: str = "", *secrets: str) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(form, secrets)
        return stream

    yield configure
    logging.captureWarnings(False)
    sys.excepthook = sys.__excepthook__
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]


def fail(words: str) -> None:
    raise RuntimeError(words)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_log_line_is_one_object_even_with_line_breaks(output: Output) -> None:
    stream = output(io.StringIO())

    logging.getLogger("dreadnode_api.x").warning("two\nlines\u2028and %s", {"a": object()})

    [line] = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "dreadnode_api.x")
    assert line["message"].startswith("two\nlines")
    assert line["time"].endswith("Z")
    assert "request_id" not in line


def test_a_terminal_gets_text_unless_objects_are_requested(output: Output) -> None:
    text = output(Terminal())
    logging.getLogger("dreadnode_api.x").info("hello")
    objects = output(Terminal(), "json")
    logging.getLogger("dreadnode_api.x").info("hello")

    assert text.getvalue().endswith(" INFO hello\n")
    assert lines(objects)[0]["message"] == "hello"


def test_an_exception_is_a_field_with_the_complete_traceback(output: Output) -> None:
    stream = output(io.StringIO())

    try:
        fail("it broke")
    except RuntimeError:
        logging.getLogger("dreadnode_api.x").exception("no luck")

    [line] = lines(stream)
    assert line["message"] == "no luck"
    assert "Traceback" in line["exception"]
    assert "RuntimeError: it broke" in line["exception"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (KEY, "dn_***"),
        ("dnj_" + "x" * 43, "dnj_***"),
        ("tml-run.019a-b.1790000000." + "0" * 64, "tml-***"),
        ("whsec_" + "A/b+" * 10 + "=", "whsec_***"),
        ("Authorization: Basic X190b2tlbl9fOmRuX3h4eHg=", "Basic ***"),
        ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9", "Bearer ***"),
        ("postgresql+asyncpg://ada:open-sesame@db/x", "://ada:***@db"),
        ('a "quoted" secret of no known form', "***"),
    ],
)
def test_keys_are_removed_at_any_position_of_a_line(
    output: Output, form: str, said: str, kept: str
) -> None:
    stream = output(io.StringIO(), form, 'a "quoted" secret of no known form')

    try:
        fail(f"refused {said}")
    except RuntimeError:
        logging.getLogger("dreadnode_api.x").exception("with %s", said, extra={"x": said})

    secret = said.split()[-1].split(":")[-1].split("@")[0]
    assert secret not in stream.getvalue()
    assert stream.getvalue().count(kept) == (3 if form == "json" else 2)


def test_ordinary_words_stay_unchanged(output: Output) -> None:
    stream = output(io.StringIO())
    words = (
        "basic facts: GET http://127.0.0.1:8799/api/v1/user 200, keys begin with `tml-` or "
        "`dn_`, sent as `Authorization: Bearer KEY`; tinker://019a/weights/final"
    )

    logging.getLogger("dreadnode_api.x").info(words)

    assert lines(stream)[0]["message"] == words


@one_database
async def test_a_request_is_logged_with_its_id_its_job_and_its_status(
    api: Any, output: Output
) -> None:
    stream = output(io.StringIO())

    await api("GET", f"{api.jobs}/some-job", headers={"X-Request-ID": "mine"})
    await api("GET", "/user?key=" + KEY)

    [about_job, about_user] = [
        each for each in lines(stream) if each["logger"] == "dreadnode_api.access"
    ]
    assert about_job["job_id"] == "some-job"
    assert (about_job["request_id"], about_job["status"]) == ("mine", 404)
    assert about_user["message"].startswith("GET /api/v1/user 422 ")
    assert about_user["path"] == "/api/v1/user"
    assert "job_id" not in about_user
    assert about_user["request_id"] != "mine"


@one_database
async def test_a_crash_is_logged_with_its_reference_and_the_request(
    api: Any, output: Output
) -> None:
    stream = output(io.StringIO())

    @api.app.get("/api/v1/crash")
    async def crash() -> None:
        raise RuntimeError(f"inside with {KEY}")

    answer = await api("GET", "/crash")

    [line] = [each for each in lines(stream) if each["level"] == "error"]
    assert line["reference"] == answer.json()["detail"].split("`")[1]
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert "RuntimeError: inside with dn_***" in line["exception"]


def test_the_last_output_of_a_process_is_a_normal_log_line() -> None:
    program = "from dreadnode_api import logs; logs.configure(); raise RuntimeError('gone')"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    line = json.loads(done.stderr)
    assert done.returncode == 1
    assert line["level"] == "critical"
    assert "RuntimeError: gone" in line["exception"]


def test_a_path_cannot_forge_a_log_line() -> None:
    assert logs.printable("/a b") == "/a b"
    assert "\n" not in logs.printable("/a\n2026-11-22 ERROR forged")


def test_an_unknown_log_format_is_refused(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="DREADNODE_LOG_FORMAT"):
        Settings(data_dir=tmp_path, log_format="xml")


def test_every_secret_setting_is_removed_from_logs(tmp_path: Any) -> None:
    settings = Settings(
        data_dir=tmp_path,
        engine_key="tml-master",
        tinker_api_key="another",
        database_url="postgresql://ada:open%20sesame@db/x",
    )

    assert settings.secrets == ("tml-master", "another", "open sesame")
    assert "sesame" not in repr(settings)
    assert not any(each in repr(settings) for each in settings.secrets)
