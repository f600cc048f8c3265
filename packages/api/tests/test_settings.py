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
def test_a_number_that_could_not_work_is_refused_by_name(
    name: str, value: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({**NAMES, f"DREADNODE_{name}": value})

    assert str(refused.value) == f"`DREADNODE_{name}` {sentence}"


@pytest.mark.parametrize("name", ["LOG_DAYS", "RATE_LIMIT", "JOBS_AT_ONCE_IN_ALL", "RETRY_SECONDS"])
def test_nothing_is_a_number_where_it_means_for_ever_or_at_once(name: str) -> None:
    given = Settings.from_environment({**NAMES, f"DREADNODE_{name}": "0"})

    assert given.data_dir == Path("/data")
    assert getattr(given, name.lower()) == 0
