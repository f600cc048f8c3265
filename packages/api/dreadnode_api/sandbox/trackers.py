"""Experiment trackers: which ones a job may name, and what its sandbox gets for them.

A tracker is available when the server's environment holds what its library needs. These variables
are passed to the sandboxes of the jobs that name the tracker, and to nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from dreadnode_api.errors import Invalid
from dreadnode_api.settings import Settings, SettingsError

Tracker = Literal["tensorboard", "mlflow", "wandb"]
Project = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
DEFAULT_PROJECT = "dreadnode"
_REQUIRED: dict[str, str] = {
    "tensorboard": "`DREADNODE_TENSORBOARD_DIR`",
    "mlflow": "`MLFLOW_TRACKING_URI`",
    "wandb": "`WANDB_API_KEY`, or `WANDB_MODE=offline` with `WANDB_DIR`",
}
TRACKERS = tuple(_REQUIRED)


def available(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the trackers that this server is configured for, with the environment of each."""
    found: dict[str, dict[str, str]] = {}
    if settings.tensorboard_dir:
        found["tensorboard"] = {"DREADNODE_TENSORBOARD_DIR": settings.tensorboard_dir}
    variables = settings.tracker_environment
    if variables.get("MLFLOW_TRACKING_URI"):
        found["mlflow"] = _with_prefix(variables, "MLFLOW_")
    offline = variables.get("WANDB_MODE") == "offline" and "WANDB_DIR" in variables
    if variables.get("WANDB_API_KEY") or offline:
        found["wandb"] = _with_prefix(variables, "WANDB_")
    return found


def check_settings(settings: Settings) -> None:
    """Check the trackers that every job uses by default.

    Raises:
        SettingsError: one is unknown or not configured.
    """
    for name in settings.track:
        if name not in TRACKERS:
            raise SettingsError(f"`DREADNODE_TRACK` may name {', '.join(TRACKERS)}, not `{name}`")
        if name not in available(settings):
            raise SettingsError(f"`DREADNODE_TRACK` names `{name}`, which needs {_REQUIRED[name]}")


def resolve(
    requested: Sequence[str] | None, project: str | None, settings: Settings
) -> dict[str, Any]:
    """Return the trackers for a job's config: those it requests, or else the server's default.

    Raises:
        Invalid: a tracker is not configured here, or a project is given without a tracker.
    """
    names = list(dict.fromkeys(settings.track if requested is None else requested))
    configured = available(settings)
    for name in names:
        if name not in configured:
            raise Invalid(
                f"This server is not configured for `{name}`: its admin must set "
                f"{_REQUIRED[name]}; remove it from `track`",
                "config",
                "track",
            )
    if not names:
        if project is not None:
            raise Invalid(
                "`track_project` has no effect without `track`; set both", "config", "track"
            )
        return {}
    return {"track": names, "track_project": project or DEFAULT_PROJECT}


def environment(config: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """Return the variables that the sandbox of a job with CONFIG gets for its trackers."""
    configured = available(settings)
    wanted = [configured[name] for name in config.get("track") or () if name in configured]
    return {name: value for each in wanted for name, value in each.items()}


def _with_prefix(variables: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(prefix)}
