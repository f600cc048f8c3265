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
    port: Annotated[int, Parameter(help="The API's port.", show_default=True)] = 8799,
    engine_port: Annotated[
        int | None, Parameter(help="The engine's port on this machine; else the one after.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        Parameter(help="Keeps everything; else `~/.local/share/dreadnode`."),
    ] = None,
    model: Annotated[
        tuple[str, ...],
        Parameter(help="ID=PATH of a base model's weights; may be given again."),
    ] = (),
    database_url: Annotated[
        str | None, Parameter(help="A database, if not SQLite in the data directory.")
    ] = None,
    runner: Annotated[
        str | None, Parameter(help="What starts sandboxes: `subprocess`, or `ray`.")
    ] = None,
    ray_address: Annotated[
        str | None, Parameter(help="The Ray cluster's dashboard, such as http://127.0.0.1:8265.")
    ] = None,
    on_stop: Annotated[
        Literal["stop", "leave"] | None,
        Parameter(
            help="Running jobs are saved and queued again when this server stops (`stop`, the "
            "default), or go on until the next start adopts them (`leave`)."
        ),
    ] = None,
) -> None:
    """Start the API, the dispatcher and the engine on this machine, until Ctrl-C.

    The first start makes an organization, a workspace and a token, and tells how to use them. With
    TINKER_BASE_URL or TINKER_API_KEY set, that is the engine and none is started here.
    """
    from dreadnode.local_server.installation import require_installation
    from dreadnode.local_server.serve import Options
    from dreadnode.local_server.serve import serve as run

    engine_port = engine_port or port + 1
    for flag, number in (("--port", port), ("--engine-port", engine_port)):
        if not 0 < number < 1 << 16:
            raise InputError(f"`{flag}` is a number from 1 to 65535, and is {number}")
    if ray_address and (runner or os.environ.get("DREADNODE_RUNNER")) != "ray":
        raise InputError("`--ray-address` needs `--runner ray`")
    if port == engine_port:
        raise InputError("`--port` and `--engine-port` must differ")
    options = Options(
        data_dir=(data_dir or default_data_dir()).expanduser().absolute(),
        host=host,
        port=port,
        engine_port=engine_port,
        models=tuple(_checked(each) for each in model),
        database_url=database_url,
        runner=runner,
        ray_address=ray_address,
        on_stop=on_stop,
    )
    require_installation(
        runtime="DREADNODE_RUNTIME_COMMAND" not in os.environ,
        engine="TINKER_BASE_URL" not in os.environ and "TINKER_API_KEY" not in os.environ,
    )
    run(options, say=say, tell=_tell)


def _checked(model: str) -> str:
    """Return ID=PATH with the whole path, or say what is wrong with it."""
    name, _, path = model.partition("=")
    if not name or not path:
        raise InputError(f"`--model {model}` is not ID=PATH, for instance Qwen/Qwen3-8B=/models/8b")
    place = Path(path).expanduser().absolute()
    if not place.is_dir() and not (place.suffix == ".gguf" and place.is_file()):
        raise InputError(f"`--model {model}`: there is no folder or GGUF file {place}")
    return f"{name}={place}"


def default_data_dir() -> Path:
    """Return where a server keeps everything unless it is told otherwise."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "dreadnode"


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
