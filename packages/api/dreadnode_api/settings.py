"""Every setting of the service: read once from the environment, then passed down."""

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

_CLIENT = re.compile(r"[A-Za-z][\w-]*/[0-9]+(\.[0-9]+)*")

GIB = 1024**3
MIB = 1024**2
TRACKER_NAMES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    *("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_DIR"),
)

SECRET_TRACKER_NAMES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY")

COUNTED = frozenset(
    {
        *("jobs_at_once", "jobs_at_once_per_workspace", "attempts"),
        *("preflight_at_once", "chats_at_once", "exports_at_once"),
    }
)
# Where nothing means no limit, for ever, or at once.
MAY_BE_ZERO = frozenset(
    {
        *("jobs_at_once_in_all", "rate_limit", "checkpoints_kept", "checkpoint_days"),
        *("log_days", "sandbox_days", "idempotency_days", "delivery_days", "upload_days"),
        *("retry_seconds", "webhook_retry_seconds", "webhook_give_up_seconds"),
        *("cancel_grace_seconds", "stop_grace_seconds"),
        *("engine_cache_seconds", "chat_idle_seconds", "ray_cpus"),
    }
)


class SettingsError(Exception):
    """A setting that cannot be used; its text is one sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the processes `init`, `serve` and `dispatch` share.

    Each field is read from the variable `DREADNODE_` + its name in capitals, except where
    `from_environment` says otherwise. Seconds and bytes are the units throughout.
    """

    data_dir: Path
    database_url: str = field(default="", repr=False)
    public_url: str = "http://127.0.0.1:8799"
    # `json` or `text`; empty means text at a terminal and JSON elsewhere.
    log_format: str = ""

    engine_url: str = ""
    # The master key of our own engine, from which a key for each run is derived.
    engine_key: str = field(default="", repr=False)
    # The key of hosted Tinker, which knows no run keys.
    tinker_api_key: str = field(default="", repr=False)
    engine_timeout: float = 10.0
    engine_cache_seconds: float = 10.0

    runtime_command: tuple[str, ...] = (sys.executable, "-m", "dreadnode_runtime")
    hf_home: str = ""
    hf_hub_offline: str = ""
    preflight_timeout: float = 300.0
    preflight_at_once: int = 2
    # For making JSONL of one pushed file of another format.
    convert_timeout: float = 300.0
    convert_memory_bytes: int = 2 * GIB
    # Checkpoints that are talked with at once, how long one is kept warm after its last answer, and
    # how long an answer may take, the start of its process included.
    chats_at_once: int = 4
    chat_idle_seconds: float = 300.0
    chat_timeout: float = 180.0
    # Checkpoints that are exported at once, and how long one may take, its turn included.
    exports_at_once: int = 1
    export_timeout: float = 900.0
    # Whether sandboxes and checks run Python that comes with a job, such as a reward function.
    allow_custom_code: bool = False

    # With what a job is followed that says nothing of it, and where TensorBoard's files go.
    track: tuple[str, ...] = ()
    tensorboard_dir: str = ""
    # What the libraries of the other trackers read, under their own names; it holds their keys.
    tracker_environment: dict[str, str] = field(default_factory=dict, repr=False)

    # The module of `dreadnode_api.sandbox` that starts sandboxes.
    runner: str = "subprocess"
    # The dashboard of the Ray cluster, the interpreter there that has the runtime, and how many
    # processors a sandbox is given.
    ray_address: str = ""
    ray_python: str = "python"
    ray_cpus: float = 1.0

    # Jobs that one dispatcher sees to at once, and those of one workspace and of the whole server
    # whatever dispatchers there are; 0 means no limit for the whole.
    jobs_at_once: int = 2
    jobs_at_once_per_workspace: int = 2
    jobs_at_once_in_all: int = 0
    lease_seconds: float = 10.0
    poll_seconds: float = 0.5
    attempts: int = 3
    retry_seconds: float = 5.0
    cancel_grace_seconds: float = 20.0
    stop_grace_seconds: float = 20.0
    # `stop` ends the sandboxes when the dispatcher is told to end and queues their jobs again;
    # `leave` lets them go on for the next dispatcher to adopt.
    on_stop: str = "stop"

    job_memory_bytes: int = 16 * GIB
    job_cpu_seconds: int = 7 * 24 * 3600
    job_wall_seconds: int = 7 * 24 * 3600
    job_open_files: int = 4096
    job_processes: int = 256
    job_disk_bytes: int = 20 * GIB
    job_output_bytes: int = 16 * MIB
    # How long a sandbox goes on without a dispatcher before it is ended.
    job_orphan_seconds: float = 3600.0

    # `any` lets webhooks go to private and loopback addresses too, `public` does not.
    webhook_targets: str = "any"
    webhook_timeout: float = 10.0
    # The first pause before a delivery is tried again; each is twice the one before, to an hour.
    webhook_retry_seconds: float = 5.0
    webhook_give_up_seconds: float = 24 * 3600.0

    # How often the dispatcher tidies up, and how long is kept what it tidies away; 0 means for
    # ever. Days count from the end of a job, or from the making of a thing without one.
    tidy_seconds: float = 3600.0
    log_days: float = 365.0
    sandbox_days: float = 30.0
    idempotency_days: float = 30.0
    delivery_days: float = 30.0
    # Blobs of the registry that no capability names, and files of uploads that broke off.
    upload_days: float = 1.0
    # Checkpoints beside the final and the best one: how many of a job, and for how long.
    checkpoints_kept: int = 0
    checkpoint_days: float = 0.0

    # What copies a PostgreSQL database; it must not be older than the server.
    pg_dump: str = "pg_dump"

    max_json_bytes: int = 1 * MIB
    max_dataset_bytes: int = 2 * GIB
    max_file_bytes: int = 8 * GIB
    max_capability_bytes: int = 64 * MIB
    # Requests a second that one credential may make on average, and at once; 0 means no limit.
    rate_limit: float = 200.0
    rate_burst: int = 400
    # Oldest client that is served, such as `dreadnode-sdk/2.0.0`; empty means any.
    minimum_client: str = ""

    def __post_init__(self) -> None:
        """Fill the database's place in and refuse what could not work."""
        if not self.database_url:
            url = f"sqlite+aiosqlite:///{self.data_dir / 'dreadnode.db'}"
            object.__setattr__(self, "database_url", url)
        object.__setattr__(self, "database_url", _with_driver(self.database_url))
        if self.log_format not in ("", "json", "text"):
            raise SettingsError("`DREADNODE_LOG_FORMAT` must be `json` or `text`")
        if self.on_stop not in ("stop", "leave"):
            raise SettingsError("`DREADNODE_ON_STOP` must be `stop` or `leave`")
        if self.webhook_targets not in ("any", "public"):
            raise SettingsError("`DREADNODE_WEBHOOK_TARGETS` must be `any` or `public`")
        if self.minimum_client and not _CLIENT.fullmatch(self.minimum_client):
            raise SettingsError(
                "`DREADNODE_MINIMUM_CLIENT` must be a name and a version, "
                f"such as `dreadnode/0.2`, not `{self.minimum_client}`"
            )
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check_number(each.name, value)
        if self.lease_seconds < 3 * self.poll_seconds:
            # It is renewed between two looks at the queue, and must outlast a slow one.
            raise SettingsError(
                "`DREADNODE_LEASE_SECONDS` must be at least three times `DREADNODE_POLL_SECONDS`"
            )

    @property
    def engine_api_key(self) -> str:
        """The key that the service itself uses when it asks the engine."""
        return self.engine_key or self.tinker_api_key

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
            SettingsError: a value does not parse, or `DREADNODE_DATA_DIR` is missing.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {
            "engine_url": environ.get("TINKER_BASE_URL", "").rstrip("/"),
            "tinker_api_key": environ.get("TINKER_API_KEY", ""),
            "hf_home": environ.get("HF_HOME", ""),
            "hf_hub_offline": environ.get("HF_HUB_OFFLINE", ""),
            "tracker_environment": {
                name: environ[name] for name in TRACKER_NAMES if name in environ
            },
        }
        for each in fields(cls):
            text = environ.get(f"DREADNODE_{each.name.upper()}")
            if text and each.name not in values:
                values[each.name] = _parse(f"DREADNODE_{each.name.upper()}", text, each.type)
        if "data_dir" not in values:
            raise SettingsError("Set `DREADNODE_DATA_DIR` to the folder that keeps the data")
        return cls(**values)


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise SettingsError(f"`DREADNODE_{name.upper()}` must be a finite number, not `{value}`")
    if value < 0:
        raise SettingsError(f"`DREADNODE_{name.upper()}` must not be negative")
    if name in COUNTED and value < 1:
        raise SettingsError(f"`DREADNODE_{name.upper()}` must be at least 1")
    if value == 0 and name not in MAY_BE_ZERO:
        raise SettingsError(f"`DREADNODE_{name.upper()}` must be more than 0")


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is Path:
            return Path(text).expanduser().absolute()
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise SettingsError(f"`{name}` must be a number, not `{text}`") from None
    if kind is bool:
        if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
            raise SettingsError(f"`{name}` must be `true` or `false`, not `{text}`")
        return text.lower() in ("1", "true", "yes")
    if kind == tuple[str, ...]:
        return tuple(text.split())
    return text


def _with_driver(url: str) -> str:
    """Name the asynchronous driver in a plain `sqlite:` or `postgresql:` address."""
    for plain, driver in (
        ("sqlite://", "sqlite+aiosqlite://"),
        ("postgresql://", "postgresql+asyncpg://"),
        ("postgres://", "postgresql+asyncpg://"),
    ):
        if url.startswith(plain):
            return driver + url.removeprefix(plain)
    if not url.startswith(("sqlite+aiosqlite://", "postgresql+asyncpg://")):
        raise SettingsError(
            "`DREADNODE_DATABASE_URL` must begin with `sqlite://` or `postgresql://`"
        )
    return url
