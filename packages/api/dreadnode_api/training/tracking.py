"""Where runs can be followed beside this service: what a job may name, and what its sandbox gets.

A tracker is offered where the server's environment holds what its own library needs. That goes into
the sandboxes of the jobs that name the tracker, into no others, and into no record.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from dreadnode_api.errors import Invalid
from dreadnode_api.settings import Settings, SettingsError

Tracker = Literal["tensorboard", "mlflow", "wandb"]
Project = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
PROJECT = "dreadnode"
_NEEDS: dict[str, str] = {
    "tensorboard": "`DREADNODE_TENSORBOARD_DIR`",
    "mlflow": "`MLFLOW_TRACKING_URI`",
    "wandb": "`WANDB_API_KEY`, or `WANDB_MODE=offline` with `WANDB_DIR`",
}
TRACKERS = tuple(_NEEDS)


def offered(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the trackers that this server is set up for, with the environment of each."""
    found: dict[str, dict[str, str]] = {}
    if settings.tensorboard_dir:
        found["tensorboard"] = {"DREADNODE_TENSORBOARD_DIR": settings.tensorboard_dir}
    given = settings.tracker_environment
    if given.get("MLFLOW_TRACKING_URI"):
        found["mlflow"] = _named(given, "MLFLOW_")
    offline = given.get("WANDB_MODE") == "offline" and "WANDB_DIR" in given
    if given.get("WANDB_API_KEY") or offline:
        found["wandb"] = _named(given, "WANDB_")
    return found


def check(settings: Settings) -> None:
    """Return if the trackers that every job is to use can be used.

    Raises:
        SettingsError: one is unknown, or not set up.
    """
    for name in settings.track:
        if name not in TRACKERS:
            raise SettingsError(f"`DREADNODE_TRACK` may name {', '.join(TRACKERS)}, not `{name}`")
        if name not in offered(settings):
            raise SettingsError(f"`DREADNODE_TRACK` names `{name}`, which needs {_NEEDS[name]}")


def tracked(
    wanted: Sequence[str] | None, project: str | None, settings: Settings
) -> dict[str, Any]:
    """Return what a job's config says of trackers: those it names, or else the server's own.

    Raises:
        Invalid: one is not set up here, or a project is named for none.
    """
    names = list(dict.fromkeys(settings.track if wanted is None else wanted))
    known = offered(settings)
    for name in names:
        if name not in known:
            raise Invalid(
                f"This server is not set up for `{name}`: its admin sets {_NEEDS[name]} on it; "
                "leave it out of `track`",
                "config",
                "track",
            )
    if not names:
        if project is not None:
            raise Invalid(
                "`track_project` has no effect without `track`; give both", "config", "track"
            )
        return {}
    return {"track": names, "track_project": project or PROJECT}


def environment(config: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """Return what the sandbox of a job with CONFIG is given for its trackers."""
    known = offered(settings)
    wanted = [known[name] for name in config.get("track") or () if name in known]
    return {name: value for each in wanted for name, value in each.items()}


def _named(given: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name.startswith(prefix)}
