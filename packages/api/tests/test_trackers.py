"""Where a run is followed: what a job may name, and what its sandbox is given for it."""

from typing import Any

import pytest
from dreadnode_api.jobs.dispatcher import describe_sandbox
from dreadnode_api.models.jobs import Job
from dreadnode_api.sandbox import trackers
from dreadnode_api.settings import Settings, SettingsError

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
GIVEN = {
    "MLFLOW_TRACKING_URI": "https://mlflow.example",
    "MLFLOW_TRACKING_TOKEN": "secret-of-mlflow",
    "WANDB_API_KEY": "secret-of-wandb",
}


def set_up(settings: Settings, **changes: Any) -> None:
    values = {"tensorboard_dir": "/boards", "tracker_environment": GIVEN, **changes}
    for name, value in values.items():
        object.__setattr__(settings, name, value)


async def test_a_tracker_that_the_server_does_not_support_is_refused(api: Any) -> None:
    await api.push()

    refused = await api.create(config={"track": ["wandb"]})

    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (
        422,
        ["body", "config", "track"],
    )
    assert refused.json()["detail"] == (
        "This server is not configured for `wandb`: its admin must set `WANDB_API_KEY`, or "
        "`WANDB_MODE=offline` with `WANDB_DIR`; remove it from `track`"
    )
    assert await api.count() == 0


async def test_a_project_without_a_tracker_and_an_unknown_tracker_are_refused(api: Any) -> None:
    await api.push()

    alone = await api.create(config={"track_project": "support"})
    unknown = await api.create(config={"track": ["comet"]})

    assert (alone.status_code, unknown.status_code) == (422, 422)
    assert "`track_project` has no effect without `track`" in alone.json()["detail"]


async def test_a_jobs_tracker_is_returned_and_defaults_to_the_servers(
    api: Any,
) -> None:
    await api.push()
    set_up(api.settings)
    named = await api.job(config={"track": ["wandb"], "track_project": "support"})
    silent = await api.job()
    set_up(api.settings, track=("mlflow", "tensorboard"))
    decided = await api.job()
    declined = await api.job(config={"track": []})

    told = [(job["config"].get("track"), job["config"].get("track_project"))
            for job in (named, silent, decided, declined)]  # fmt: skip

    assert told == [
        (["wandb"], "support"),
        (None, None),
        (["mlflow", "tensorboard"], "dreadnode"),
        (None, None),
    ]


def test_a_sandbox_gets_only_the_keys_of_its_own_trackers(
    settings: Settings,
) -> None:
    set_up(settings)
    job = Job(id="job-1", lineage="job-1", attempt=1, artifacts={})

    def names(*track: str) -> set[str]:
        job.config = {"track": list(track)}
        given = describe_sandbox(settings, job, "acme", "lab", "dnj_key").environment
        return {n for n in given if n.startswith(("MLFLOW", "WANDB", "DREADNODE_TENSORBOARD"))}

    assert names() == set()
    assert names("wandb") == {"WANDB_API_KEY"}
    assert names("mlflow", "tensorboard") == {
        "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "DREADNODE_TENSORBOARD_DIR",
    }  # fmt: skip


def test_tracker_keys_are_read_from_their_own_variables_and_never_shown(
    settings: Settings,
) -> None:
    environ = {"DREADNODE_DATA_DIR": "/data", "DREADNODE_TRACK": "wandb mlflow", **GIVEN}

    read = Settings.from_environment(environ)

    assert set(trackers.available(read)) == {"mlflow", "wandb"}
    assert "secret-of" not in repr(read)
    assert {"secret-of-wandb", "secret-of-mlflow"} <= set(read.secrets)
    trackers.check_settings(read)


def test_a_server_that_tracks_every_run_needs_the_trackers_settings(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="needs `WANDB_API_KEY`"):
        trackers.check_settings(settings.model_copy(update={"track": ("wandb",)}))
    with pytest.raises(SettingsError, match="not `comet`"):
        trackers.check_settings(settings.model_copy(update={"track": ("comet",)}))
