"""`dn serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli.output import say
from dreadnode.errors import InputError


def serve(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.", show_default=True)] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of the API.", show_default=True)] = 8799,
    engine_port: Annotated[
        int | None, Parameter(help="Port of the engine, on this machine only; else the next port.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        Parameter(help="Folder for everything the server keeps; else `~/.local/share/dreadnode`."),
    ] = None,
    model: Annotated[
        tuple[str, ...],
        Parameter(help="ID=PATH of a base model's weights. Repeatable."),
    ] = (),
    memory_gib: Annotated[
        float | None,
        Parameter(
            help="Memory that the engine may use for models, runs and computing, in GiB; else four "
            "fifths of what is free, measured again each time."
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        Parameter(
            help="Data type of the engine's base weights: `float32` (default), `bfloat16`, or "
            "`auto` for the faster of the two."
        ),
    ] = None,
    database_url: Annotated[
        str | None, Parameter(help="Database URL; else SQLite in the data directory.")
    ] = None,
    runner: Annotated[
        str | None, Parameter(help="Runner of sandboxes: `subprocess` or `ray`.")
    ] = None,
    ray_address: Annotated[
        str | None, Parameter(help="Address of the Ray dashboard, such as http://127.0.0.1:8265.")
    ] = None,
    on_stop: Annotated[
        Literal["stop", "leave"] | None,
        Parameter(
            help="What happens to running jobs when the server stops: `stop` (default) saves and "
            "queues them again, `leave` keeps them running until the next start adopts them."
        ),
    ] = None,
) -> None:
    """Run the API, the dispatcher and the engine on this machine, until Ctrl-C.

    The first start creates an organization, a workspace and a token, and shows how to use them. If
    TINKER_BASE_URL or TINKER_API_KEY is set, that Tinker is the engine and no local one starts.
    """
    from dreadnode.local_server.installation import require_installation
    from dreadnode.local_server.serve import Options
    from dreadnode.local_server.serve import serve as run

    engine_port = engine_port or port + 1
    for flag, number in (("--port", port), ("--engine-port", engine_port)):
        if not 0 < number < 1 << 16:
            raise InputError(f"`{flag}` must be from 1 to 65535, not {number}")
    if ray_address and (runner or os.environ.get("DREADNODE_RUNNER")) != "ray":
        raise InputError("`--ray-address` needs `--runner ray`")
    if port == engine_port:
        raise InputError("`--port` and `--engine-port` must differ")
    if memory_gib is not None and not 0 < memory_gib < 1e6:
        raise InputError(f"`--memory-gib` must be above 0 and below 1000000, not {memory_gib:g}")
    hosted = "TINKER_BASE_URL" in os.environ or "TINKER_API_KEY" in os.environ
    for flag, value in (("--memory-gib", memory_gib), ("--dtype", dtype)):
        if value is not None and hosted:
            raise InputError(
                f"`{flag}` is for the local engine, which does not start while TINKER_BASE_URL or "
                "TINKER_API_KEY is set; unset them, or leave it out"
            )
    options = Options(
        data_dir=(data_dir or default_data_dir()).expanduser().absolute(),
        host=host,
        port=port,
        engine_port=engine_port,
        models=tuple(_absolute(each) for each in model),
        memory_gib=memory_gib,
        dtype=dtype,
        database_url=database_url,
        runner=runner,
        ray_address=ray_address,
        on_stop=on_stop,
    )
    require_installation(
        runtime="DREADNODE_RUNTIME_COMMAND" not in os.environ,
        engine=not hosted,
    )
    run(options, say=say, show=_show)


def _absolute(model: str) -> str:
    """Return ID=PATH with an absolute path, or raise what is wrong with it."""
    name, _, path = model.partition("=")
    if not name or not path:
        raise InputError(f"`--model {model}` is not ID=PATH, for instance Qwen/Qwen3-8B=/models/8b")
    place = Path(path).expanduser().absolute()
    if not place.is_dir() and not (place.suffix == ".gguf" and place.is_file()):
        raise InputError(f"`--model {model}`: {place} is not a folder or a GGUF file")
    return f"{name}={place}"


def default_data_dir() -> Path:
    """Return the default data directory of a server."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "dreadnode"


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
