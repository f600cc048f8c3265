"""The settings of the service: read once from the environment, then passed down.

A setting's type, default, bounds, unit and help stand here and nowhere else: `make docs` writes the
table in the documentation from them.
"""

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy import make_url

from dreadnode_api.setting_types import (
    Bytes,
    Count,
    CountOrZero,
    Days,
    MaybeBytes,
    MaybeSeconds,
    Seconds,
    SettingsError,
    WholeSeconds,
    Words,
    client_name,
    must,
    with_driver,
)

__all__ = ["Settings", "SettingsError"]

PREFIX = "DREADNODE_"
GIB = 1024**3
MIB = 1024**2
TRACKER_NAMES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    *("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_DIR"),
)
SECRET_TRACKER_NAMES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY")

SECTIONS = {
    "data_dir": "General",
    "engine_url": "Engine",
    "runtime_command": "Checks, chats and exports",
    "track": "Trackers",
    "runner": "Sandboxes",
    "jobs_at_once": "Jobs",
    "job_memory_bytes": "Limits of one job",
    "webhook_targets": "Webhooks",
    "tidy_seconds": "Retention",
    "max_json_bytes": "Requests",
    "quota_stored_bytes": "Quotas of one organization; 0 means unlimited",
}
"""The first setting of each section of the documentation, with the section's title."""


class Settings(BaseSettings):
    """The settings that the processes `init`, `serve` and `dispatch` share."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        description="Folder of datasets, job files, sandboxes and the SQLite database."
    )
    database_url: Annotated[str, AfterValidator(with_driver)] = Field(
        "", repr=False, description="Database: SQLite in the data directory, or `postgresql://…`."
    )
    public_url: str = Field(
        "http://127.0.0.1:8799",
        description="Address at which sandboxes reach the API; if it starts with `https:`, "
        "browsers send the console's cookie over TLS only.",
    )
    log_format: Literal["", "json", "text"] = Field(
        "", description="Format of the log; empty means text at a terminal and JSON elsewhere."
    )
    pg_dump: str = Field(
        "pg_dump",
        description="Program that copies a PostgreSQL database; at least as new as the server.",
    )

    engine_url: Annotated[str, AfterValidator(lambda url: url.rstrip("/"))] = Field(
        "", validation_alias="TINKER_BASE_URL", description="Address of the engine."
    )
    engine_key: str = Field(
        "",
        repr=False,
        description="Master key of our own engine; the key of each run is derived from it.",
    )
    tinker_api_key: str = Field(
        "",
        repr=False,
        validation_alias="TINKER_API_KEY",
        description="API key of hosted Tinker, which has no run keys; sandboxes get it.",
    )
    engine_timeout: Seconds = Field(10.0, description="Timeout of a request to the engine.")
    engine_cache_seconds: MaybeSeconds = Field(
        10.0, description="How long the list of the engine's models is cached."
    )

    runtime_command: Words = Field(
        (sys.executable, "-m", "dreadnode_runtime"),
        description="Command that runs in a sandbox, with spaces between its words.",
    )
    hf_home: str = Field(
        "", validation_alias="HF_HOME", description="Cache folder of Hugging Face files."
    )
    hf_hub_offline: str = Field(
        "",
        validation_alias="HF_HUB_OFFLINE",
        description="`1` keeps Hugging Face libraries offline.",
    )
    preflight_timeout: Seconds = Field(3600.0, description="Timeout of the check of a job's data.")
    preflight_at_once: Count = Field(
        4, description="Checks that run at the same time, at most half of them of one organization."
    )
    preflight_wait_seconds: Seconds = Field(
        20.0,
        description="How long a request waits for the check of its data. A longer check continues "
        "after the job is created, in the phase `validating`.",
    )
    convert_timeout: Seconds = Field(
        300.0, description="Timeout of the conversion of one pushed file to JSONL."
    )
    convert_memory_bytes: Bytes = Field(2 * GIB, description="Memory of such a conversion.")
    chats_at_once: Count = Field(
        4, description="Models that `/v1` and `dn train chat` keep loaded at the same time."
    )
    chat_idle_seconds: MaybeSeconds = Field(
        300.0, description="How long a checkpoint stays loaded after its last completion."
    )
    chat_timeout: Seconds = Field(
        180.0, description="Timeout of a completion, including the start of its process."
    )
    exports_at_once: Count = Field(1, description="Checkpoints that are exported at the same time.")
    export_timeout: Seconds = Field(
        900.0, description="Timeout of an export, including the wait for its turn."
    )
    allow_custom_code: bool = Field(
        False,
        description="Whether checks and sandboxes run Python code that comes with a job: rewards "
        "and environments.",
    )

    track: Words = Field(
        (), description="Trackers of jobs that name none: `tensorboard`, `mlflow`, `wandb`."
    )
    tensorboard_dir: str = Field("", description="Folder of TensorBoard's files.")
    # What the libraries of the other trackers read, under their own names; it holds their keys.
    tracker_environment: dict[str, str] = Field(default_factory=dict, repr=False, exclude=True)

    runner: str = Field("subprocess", description="What starts sandboxes: `subprocess` or `ray`.")
    ray_address: str = Field("", description="Dashboard of the Ray cluster.")
    ray_python: str = Field(
        "python", description="Python interpreter of the cluster, with the runtime installed."
    )
    ray_cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs of one sandbox.")

    jobs_at_once: Count = Field(2, description="Jobs that one dispatcher runs.")
    jobs_at_once_per_workspace: Count = Field(
        2, description="Jobs that one workspace runs, over all dispatchers."
    )
    jobs_at_once_in_all: CountOrZero = Field(
        0, description="Jobs that run over all dispatchers; 0 means unlimited."
    )
    lease_seconds: Seconds = Field(
        10.0,
        description="Time after which the jobs of a dead dispatcher and the slow checks of a dead "
        "API are taken over.",
    )
    poll_seconds: Seconds = Field(
        0.5, description="Time between two looks at the queue and at slow checks."
    )
    attempts: Count = Field(3, description="Attempts of a job that infrastructure failures end.")
    retry_seconds: MaybeSeconds = Field(5.0, description="Pause before another attempt.")
    cancel_grace_seconds: MaybeSeconds = Field(
        20.0, description="Time that a cancelled sandbox has to save and stop."
    )
    stop_grace_seconds: MaybeSeconds = Field(
        20.0, description="Time that a sandbox has to save and stop when the dispatcher stops."
    )
    on_stop: Literal["stop", "leave"] = Field(
        "stop",
        description="When the dispatcher stops: `stop` ends its sandboxes and queues their jobs "
        "again, `leave` keeps them for the next dispatcher to adopt.",
    )

    job_memory_bytes: Bytes = Field(16 * GIB, description="Memory.")
    job_cpu_seconds: WholeSeconds = Field(7 * 24 * 3600, description="CPU time.")
    job_wall_seconds: WholeSeconds = Field(7 * 24 * 3600, description="Run time.")
    job_open_files: Annotated[int, Field(gt=0)] = Field(4096, description="Open files.")
    job_processes: Annotated[int, Field(gt=0)] = Field(256, description="Processes and threads.")
    job_disk_bytes: Bytes = Field(20 * GIB, description="Size of the sandbox's folder.")
    job_output_bytes: Bytes = Field(16 * MIB, description="Output of the sandbox's process.")
    job_orphan_seconds: Seconds = Field(
        3600.0, description="How long a sandbox runs without a dispatcher before it is ended."
    )

    webhook_targets: Literal["any", "public"] = Field(
        "any", description="`public` refuses webhooks to private and loopback addresses."
    )
    webhook_timeout: Seconds = Field(10.0, description="Timeout of one delivery.")
    webhook_retry_seconds: MaybeSeconds = Field(
        5.0, description="First pause before a retry; each pause doubles, up to an hour."
    )
    webhook_give_up_seconds: MaybeSeconds = Field(
        24 * 3600.0, description="Time after which a delivery has failed."
    )

    tidy_seconds: Seconds = Field(3600.0, description="Time between two clean-ups.")
    log_days: Days = Field(
        365.0, description="Log lines, events and rollouts of ended jobs; 0 keeps them."
    )
    sandbox_days: Days = Field(30.0, description="Folders of sandboxes; 0 keeps them.")
    idempotency_days: Days = Field(
        30.0, description="Idempotency keys and stored results of checks; 0 keeps them."
    )
    delivery_days: Days = Field(30.0, description="Settled webhook deliveries; 0 keeps them.")
    upload_days: Days = Field(
        1.0,
        description="Blobs that no capability names, interrupted uploads, and exported adapters of "
        "expired checkpoints; 0 keeps them.",
    )
    checkpoints_kept: CountOrZero = Field(
        0, description="Newest checkpoints that are kept of a job and its retries; 0 means all."
    )
    checkpoint_days: Days = Field(
        30.0,
        description="Checkpoints of ended jobs, counted from the end of the job and its retries; 0 "
        "keeps them. The final and the best one stay, and the newest one of a job without a final "
        "one.",
    )

    max_json_bytes: Bytes = Field(1 * MIB, description="Largest JSON body.")
    max_dataset_bytes: Bytes = Field(2 * GIB, description="Largest dataset.")
    max_file_bytes: Bytes = Field(8 * GIB, description="Largest file of a job.")
    max_capability_bytes: Bytes = Field(64 * MIB, description="Largest capability.")
    rate_limit: Annotated[float, Field(ge=0)] = Field(
        200.0,
        description="Requests per second and credential on average; 0 means unlimited. Catalog, "
        "health and metrics are not counted.",
    )
    rate_burst: Annotated[int, Field(gt=0)] = Field(
        400, description="Requests of one credential in a burst."
    )
    max_connections: Count = Field(
        1000, description="Open connections; at most half of the files that the process may open."
    )
    max_body_bytes_in_memory: Bytes = Field(
        64 * MIB, description="Bodies that are kept in memory together; uploads are not."
    )
    head_seconds: Seconds = Field(20.0, description="Time for the head of a request.")
    silence_seconds: Seconds = Field(
        30.0, description="How long a client may stop sending its body or reading its response."
    )
    minimum_client: Annotated[str, AfterValidator(client_name)] = Field(
        "", description="Oldest client that is served, for example `dreadnode-sdk/2.0.0`."
    )

    quota_stored_bytes: MaybeBytes = Field(
        500 * GIB, description="Stored data: datasets, capabilities and files of jobs."
    )
    quota_datasets: CountOrZero = Field(10_000, description="Versions of datasets.")
    quota_blobs: CountOrZero = Field(10_000, description="Blobs of capabilities.")
    quota_tokens: CountOrZero = Field(1000, description="Valid tokens of users.")
    quota_queued_jobs: CountOrZero = Field(1000, description="Queued jobs.")
    quota_webhooks: CountOrZero = Field(100, description="Webhooks.")

    def __init__(self, **values: Any) -> None:
        """Read the settings in VALUES, and none from the environment.

        Raises:
            SettingsError: a value is missing, unknown or impossible.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_sentence(error.errors(include_url=False)[0])) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment in `from_environment` only, so that tests are not affected by it."""
        return (init_settings,)

    @model_validator(mode="after")
    def _outlasts_a_slow_poll(self) -> "Settings":
        # The lease is renewed between two looks at the queue.
        if self.lease_seconds < 3 * self.poll_seconds:
            raise SettingsError(
                "`DREADNODE_LEASE_SECONDS` must be at least three times `DREADNODE_POLL_SECONDS`"
            )
        return self

    @property
    def engine_api_key(self) -> str:
        """The key that the service itself uses when it asks the engine."""
        return self.engine_key or self.tinker_api_key

    @property
    def uses_tls(self) -> bool:
        """Whether clients reach the API over TLS."""
        return self.public_url.startswith("https:")

    @property
    def is_paid(self) -> bool:
        """Whether the engine charges for tokens: hosted Tinker does, our own engine does not."""
        return bool(self.tinker_api_key) and not self.engine_key

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        password = make_url(self.database_url).password
        given = self.tracker_environment
        of_trackers = [given[name] for name in SECRET_TRACKER_NAMES if name in given]
        keys = (self.engine_key, self.tinker_api_key, password, *of_trackers)
        return tuple(each for each in keys if each)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from `environ` (default: this process's environment).

        Raises:
            SettingsError: a value is impossible, a name is misspelt, or `DREADNODE_DATA_DIR` is
                missing.
        """
        environ = os.environ if environ is None else environ
        _check_names(environ)
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): value for name, value in environ.items() if value}
        trackers = {name: environ[name] for name in TRACKER_NAMES if name in environ}
        return cls(**source(), tracker_environment=trackers)


def variable(name: str) -> str:
    """Return the environment variable that sets the setting NAME."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias) if alias else f"{PREFIX}{name.upper()}"


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse a variable whose name is close to that of a setting, and which would have no effect.

    Other variables may belong to the client or to a tool, so they are left alone.
    """
    known = {variable(name): name for name in Settings.model_fields if name not in _UNNAMED}
    for name, value in environ.items():
        if not value or not name.startswith(PREFIX) or name in known or name in _CLIENT_NAMES:
            continue
        setting = name.removeprefix(PREFIX).lower()
        if setting in Settings.model_fields and setting not in _UNNAMED:
            raise SettingsError(f"`{name}` has no effect; set `{variable(setting)}`")
        plain = [each.removeprefix(PREFIX) for each in known]
        if near := get_close_matches(name.removeprefix(PREFIX), plain, n=1, cutoff=0.85):
            raise SettingsError(f"Unknown setting `{name}`. Did you mean `{PREFIX}{near[0]}`?")


_UNNAMED = {"tracker_environment"}
_CLIENT_NAMES = {
    f"{PREFIX}{name}"
    for name in ("SERVER", "API_KEY", "ORGANIZATION", "WORKSPACE", "PROJECT", "CONFIG_DIR")
}


def _sentence(error: ErrorDetails) -> str:
    """Return what is wrong with one setting, by the name of its variable."""
    place = str(error["loc"][0])
    name = next((n for n in Settings.model_fields if place in (n, variable(n))), place)
    if name not in Settings.model_fields:
        return f"Unknown setting `{place}`"
    if name == "data_dir" and error["type"] == "missing":
        return "Set `DREADNODE_DATA_DIR` to the folder that keeps the data"
    text = must(error)
    # A secret does not show in a refusal either.
    shown = error["type"] != "value_error" or not Settings.model_fields[name].repr
    return f"`{variable(name)}` {text}" + ("" if shown else f", not `{error['input']}`")
