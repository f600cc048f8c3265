"""Reference pages written from the code: the Python client and the engine's commands."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dreadnode.training
from dreadnode import ApiClient, errors

CLIENT_INTRODUCTION = """\
# Python client

Written by `make docs` from the code: do not edit.

`ApiClient` blocks; `AsyncApiClient` has the same methods, awaited. Both are context managers.

```python
from dreadnode import ApiClient
from dreadnode.training import get_training_model

model = get_training_model("Qwen/Qwen3-8B")  # the offline catalog, without a server
with ApiClient("http://127.0.0.1:8799", "dn_…", organization="main", workspace="default") as client:
    job = client.wait_for_training_job("JOB")
    print(job.status, job.metrics["train/loss_last"])
```
"""
ENGINE_INTRODUCTION = """\
# Engine commands

Written by `make docs` from the code: do not edit.

`dn engine …` runs these commands of `python -m dreadnode_engine`.
[Engine](../explanation/engine.md) explains how the engine works and what it serves.
"""


def python_client() -> str:
    """Return the page of the Python client: methods, catalog functions and errors."""
    parts = [CLIENT_INTRODUCTION, "## `ApiClient`\n", _code(_signature("ApiClient", ApiClient))]
    for name, method in _public(ApiClient):
        parts += [f"### `{name}`\n", _code(_signature(name, method)), _prose(method)]
    parts.append("## Catalog: `dreadnode.training`\n")
    for name in dreadnode.training.__all__:
        found = getattr(dreadnode.training, name)
        if callable(found):
            parts += [f"### `{name}`\n", _code(_signature(name, found)), _prose(found)]
    parts.append("## Errors: `dreadnode.errors`\n")
    parts.append("| error | base | meaning |\n| --- | --- | --- |")
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, Exception):
            first = (inspect.getdoc(error) or "").split("\n")[0]
            parts.append(f"| `{name}` | `{error.__base__.__name__}` | {first} |")
    return "\n".join(parts) + "\n"


def engine_commands() -> str:
    """Return the page of the engine's command line: the help of each command."""
    parts = [ENGINE_INTRODUCTION]
    for command in ("serve", "models", "export", "trace"):
        shown = subprocess.run(
            [sys.executable, "-m", "dreadnode_engine", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "100"},
        ).stdout
        parts += [f"## `dn engine {command}`\n", f"```text\n{shown.strip()}\n```\n"]
    return "\n".join(parts)


def _public(client: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, method in inspect.getmembers(client, callable):
        if not name.startswith("_"):
            yield name, method


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    plain = str(signature.replace(parameters=parameters))
    plain = re.sub(r"'([\w\[\], |.]+)'", r"\1", plain).replace("dreadnode.", "")
    # The modules of `dreadnode.lazy_types`; the page names types alone.
    plain = re.sub(r"\b(?!httpx2)[a-z]\w*\.(?=[A-Z])", "", plain)
    return f"{name}{plain}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _prose(function: Callable[..., Any]) -> str:
    return f"```text\n{inspect.getdoc(function) or ''}\n```\n"
