"""`python -m dreadnode_engine`: serve models, or show which would be served."""

import argparse
import asyncio
import json
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import uvicorn

from dreadnode_engine import logs
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.keys import Keyring, master_key
from dreadnode_engine.models import ServedModel, discover

_TIMES = {
    "snapshot_seconds": 20.0,
    "gap_seconds": 900.0,
    "ask_seconds": 120.0,
    "session_seconds": 900.0,
    "retention_seconds": 86400.0,
    "tidy_seconds": 30.0,
}
"""The settings in seconds, with what they are when not given; `docs/engine.md` explains them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ARGUMENTS name, and return the exit code."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        logs.configure()
        if options.command == "models":
            return _models(options)
        return asyncio.run(_serve(options))
    except (Refused, OperationFailed, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dreadnode_engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="answer the Tinker protocol over HTTP")
    models = commands.add_parser("models", help="show which base models would be served")
    for command in (serve, models):
        command.add_argument("--data-dir", type=Path, required=True)
        command.add_argument("--model", action="append", default=[], metavar="ID=PATH")
        command.add_argument("--stand-in", action=argparse.BooleanOptionalAction, default=True)
        command.add_argument("--hf-cache", action=argparse.BooleanOptionalAction, default=True)
    models.add_argument("--json", action="store_true")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=0)
    serve.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    serve.add_argument("--dtype", choices=["float32", "bfloat16"], default=None)
    serve.add_argument("--memory-gib", type=_positive, default=None)
    serve.add_argument("--threads", type=int, default=None)
    serve.add_argument("--gradient-checkpointing", action="store_true")
    for name, seconds in _TIMES.items():
        serve.add_argument(f"--{name.replace('_', '-')}", type=_positive, default=seconds)
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError
    return number


def _found(options: argparse.Namespace) -> dict[str, ServedModel]:
    options.data_dir = options.data_dir.expanduser().resolve()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    return discover(
        options.data_dir, options.model, stand_in=options.stand_in, cache=options.hf_cache
    )


def _models(options: argparse.Namespace) -> int:
    models = [
        {**model.describe(), "bytes": model.bytes, "architecture": model.architecture}
        for _, model in sorted(_found(options).items())
    ]
    if options.json:
        _say(sys.stdout, json.dumps({"models": models}, indent=2))
        return 0
    for model in models:
        size = f"{model['bytes'] / 2**30:.2f} GiB"
        _say(sys.stdout, f"{model['model_name']}  {size}  {model['tokenizer_id']}")
    if not models:
        _say(sys.stderr, "no models; name one with `--model ID=PATH`")
    return 0


def _say(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


async def _serve(options: argparse.Namespace) -> int:
    models = _found(options)
    keyring = Keyring(master_key(options.data_dir))
    listening = _listen(options.host, options.port)
    # What computes is imported late: a wrong argument should not take seconds to be refused.
    import torch

    from dreadnode_engine.bases import Device
    from dreadnode_engine.context import Settings
    from dreadnode_engine.server import create_app

    if options.device == "cuda" and not torch.cuda.is_available():
        raise Refused("`--device cuda` needs a CUDA GPU, and PyTorch sees none here")
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    device = Device(options.device, getattr(torch, dtype), options.gradient_checkpointing)
    memory = int(options.memory_gib * 2**30) if options.memory_gib else None
    times = {name: getattr(options, name) for name in _TIMES}
    settings = Settings(options.data_dir, device, memory, **times)
    app = create_app(settings, models, keyring)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on"
    )
    server = uvicorn.Server(config)
    _watch_lifeline()
    # uvicorn raises the signal that ended it once more; by then there is nothing left to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    ready = asyncio.create_task(_announce(server, listening))
    await server.serve(sockets=[listening])
    ready.cancel()
    return 0 if server.started else 1


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio does not turn off the delay that gathers small packets.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Refused(f"The engine cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


async def _announce(server: uvicorn.Server, listening: socket.socket) -> None:
    while not server.started:  # noqa: ASYNC110 (uvicorn has a flag, and no event)
        await asyncio.sleep(0.02)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    _say(sys.stdout, f"engine ready on http://{shown}:{port}")


def _watch_lifeline() -> None:
    """End with whoever holds the other end of stdin, if stdin is a pipe."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
