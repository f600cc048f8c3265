"""The environment, limits and errors of the runtime's child processes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_api.auth.tokens import run_key
from dreadnode_api.errors import ApiError, BadGateway, Invalid
from dreadnode_api.settings import Settings

RUN_KEY_SECONDS = 24 * 3600
"""How long a process may call the engine."""


def clean_environment(settings: Settings, home: Path) -> dict[str, str]:
    """Return the environment that every process of the runtime starts with: it has no secrets."""
    variables = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": settings.hf_home,
        "HF_HUB_OFFLINE": settings.hf_hub_offline,
        "DREADNODE_ALLOW_CUSTOM_CODE": "1" if settings.allow_custom_code else "",
    }
    return {name: value for name, value in variables.items() if value}


def engine_environment(
    settings: Settings, lineage: str, home: Path, seconds: int = RUN_KEY_SECONDS
) -> dict[str, str]:
    """Return the environment of a process that may access the runs of LINEAGE on the engine.

    An empty LINEAGE is that of the engine's operator, who may access all of them. The key of other
    runs is valid for SECONDS.
    """
    key = settings.engine_api_key
    if settings.engine_key and lineage:
        key = run_key(settings.engine_key, lineage, seconds)
    variables = {
        **clean_environment(settings, home),
        "TINKER_API_KEY": key,
        "TINKER_BASE_URL": settings.engine_url,
        "TINKER_TELEMETRY": "0",
    }
    return {name: value for name, value in variables.items() if value}


def job_limits(settings: Settings) -> dict[str, int]:
    """Return the limits of a sandbox, which the runtime's child processes have as well."""
    return {
        "memory_bytes": settings.job_memory_bytes,
        "processes": settings.job_processes,
        "cpu_seconds": settings.job_cpu_seconds,
        "wall_seconds": settings.job_wall_seconds,
        "open_files": settings.job_open_files,
        "disk_bytes": settings.job_disk_bytes,
        "output_bytes": settings.job_output_bytes,
    }


def refusal(response: Mapping[str, Any]) -> ApiError:
    """Return the error that a process reports: caused by the engine or by the request."""
    message = str(response["error"])
    return BadGateway(message) if response.get("fault") == "engine" else Invalid(message)
