"""Settings that could not work are refused before anything starts."""

from pathlib import Path

import pytest
from dreadnode_api.settings import Settings, SettingsError

NAMES = {"DREADNODE_DATA_DIR": "/data"}


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LEASE_SECONDS", "0", "must be more than 0"),
        ("LEASE_SECONDS", "nan", "must be a finite number, not `nan`"),
        ("LEASE_SECONDS", "1", "must be at least three times `DREADNODE_POLL_SECONDS`"),
        ("POLL_SECONDS", "-1", "must not be negative"),
        ("TIDY_SECONDS", "0", "must be more than 0"),
        ("JOB_MEMORY_BYTES", "0", "must be more than 0"),
        ("JOB_ORPHAN_SECONDS", "inf", "must be a finite number, not `inf`"),
        ("JOBS_AT_ONCE", "0", "must be at least 1"),
        ("LOG_DAYS", "-1", "must not be negative"),
        ("ATTEMPTS", "many", "must be a number, not `many`"),
    ],
)
def test_an_impossible_number_is_refused_by_name(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({**NAMES, f"DREADNODE_{name}": value})

    assert str(refused.value) == f"`DREADNODE_{name}` {sentence}"


@pytest.mark.parametrize("name", ["LOG_DAYS", "RATE_LIMIT", "JOBS_AT_ONCE_IN_ALL", "RETRY_SECONDS"])
def test_none_is_accepted_where_it_means_unlimited_or_immediately(name: str) -> None:
    given = Settings.from_environment({**NAMES, f"DREADNODE_{name}": "0"})

    assert given.data_dir == Path("/data")
    assert getattr(given, name.lower()) == 0


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("MAX_JSON_BYTES", "64K", 65_536),
        ("MAX_JSON_BYTES", "64KB", 64_000),
        ("JOB_MEMORY_BYTES", "2GiB", 2 * 1024**3),
        ("JOB_MEMORY_BYTES", "1.5g", 1_610_612_736),
        ("JOB_WALL_SECONDS", "1h30m", 5400),
        ("LEASE_SECONDS", "90s", 90.0),
        ("RETRY_SECONDS", "2.5", 2.5),
        ("LOG_DAYS", "36h", 1.5),
    ],
)
def test_common_notations_of_sizes_and_durations_are_read(
    name: str, value: str, meant: float
) -> None:
    given = Settings.from_environment({**NAMES, f"DREADNODE_{name}": value})

    assert getattr(given, name.lower()) == meant


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "MAX_JSON_BYTES",
            "64Q",
            "must be a number of bytes, or a size such as `64K` or `2GiB`, not `64Q`",
        ),
        (
            "LEASE_SECONDS",
            "soon",
            "must be a number of seconds, or a duration such as `90s`, `1h30m` or `7d`, not `soon`",
        ),
        ("ON_STOP", "wait", "must be `stop` or `leave`, not `wait`"),
        ("LOG_FORMAT", "xml", "must be `json` or `text`, not `xml`"),
        ("ALLOW_CUSTOM_CODE", "perhaps", "must be `true` or `false`, not `perhaps`"),
        ("DATABASE_URL", "mysql://x", "must begin with `sqlite://` or `postgresql://`"),
        ("MINIMUM_CLIENT", "2", "must be a name and a version, such as `dreadnode/0.2`, not `2`"),
    ],
)
def test_an_impossible_value_is_refused_in_a_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({**NAMES, f"DREADNODE_{name}": value})

    assert str(refused.value) == f"`DREADNODE_{name}` {sentence}"


def test_a_misspelled_variable_is_refused_and_not_ignored() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({**NAMES, "DREADNODE_JOBS_AT_ONC": "4"})

    assert str(refused.value) == (
        "Unknown setting `DREADNODE_JOBS_AT_ONC`. Did you mean `DREADNODE_JOBS_AT_ONCE`?"
    )


def test_a_setting_with_the_name_of_another_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="`DREADNODE_ENGINE_URL` has no effect; set `TINKER_"):
        Settings.from_environment({**NAMES, "DREADNODE_ENGINE_URL": "http://engine"})


def test_variables_of_the_client_and_of_other_tools_are_ignored() -> None:
    others = {"DREADNODE_API_KEY": "dn_x", "DREADNODE_SERVER": "http://x", "DREADNODE_TEST": "1"}

    assert Settings.from_environment({**NAMES, **others}).attempts == 3


def test_a_missing_data_directory_is_named() -> None:
    with pytest.raises(SettingsError, match="Set `DREADNODE_DATA_DIR` to the folder"):
        Settings.from_environment({})


def test_printed_settings_contain_no_secret() -> None:
    given = Settings.from_environment(
        {
            **NAMES,
            "DREADNODE_DATABASE_URL": "postgresql://me:hidden-1@localhost/x",
            "DREADNODE_ENGINE_KEY": "hidden-2",
            "TINKER_API_KEY": "hidden-3",
            "WANDB_API_KEY": "hidden-4",
        }
    )

    assert "hidden" not in f"{given!r} {given}"
    assert set(given.secrets) == {"hidden-1", "hidden-2", "hidden-3", "hidden-4"}
