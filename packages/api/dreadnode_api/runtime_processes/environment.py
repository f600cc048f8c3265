"""What the short-lived processes of the runtime are given, and what their refusals become."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreadnode_api.auth.tokens import run_key
from dreadnode_api.errors import ApiError, BadGateway, Invalid
from dreadnode_api.settings import Settings

KEY_SECONDS = 24 * 3600
"""How long a process may ask the engine."""


def clean_environment(settings: Settings, home: Path) -> dict[str, str]:
    """Return the environment that any process of the runtime begins with: no key, no token."""
    given = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": settings.hf_home,
        "HF_HUB_OFFLINE": settings.hf_hub_offline,
        "DREADNODE_ALLOW_CUSTOM_CODE": "1" if settings.allow_custom_code else "",
    }
    return {name: value for name, value in given.items() if value}


def engine_environment(settings: Settings, lineage: str, home: Path) -> dict[str, str]:
    """Return the environment of a process that may ask the engine about the runs of LINEAGE."""
    key = run_key(settings.engine_key, lineage, KEY_SECONDS) if settings.engine_key else ""
    given = {
        **clean_environment(settings, home),
        "TINKER_API_KEY": key or settings.tinker_api_key,
        "TINKER_BASE_URL": settings.engine_url,
        "TINKER_TELEMETRY": "0",
    }
    return {name: value for name, value in given.items() if value}


def limits(settings: Settings) -> dict[str, int]:
    """Return what a process may take that is no sandbox and works for one."""
    return {
        "memory_bytes": settings.job_memory_bytes,
        "cpu_seconds": settings.job_cpu_seconds,
        "open_files": settings.job_open_files,
        "disk_bytes": settings.job_disk_bytes,
    }


def refused(answer: Mapping[str, Any]) -> ApiError:
    """Return the refusal that a process has answered: the engine's fault, or the request's."""
    sentence = str(answer["error"])
    return BadGateway(sentence) if answer.get("fault") == "engine" else Invalid(sentence)
