"""`python -m dreadnode_engine`: serve models, or show which would be served."""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import uvicorn

from dreadnode_engine import logs
from dreadnode_engine.compute.served_models import ServedModel, discover
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.http.keys import Keyring, master_key

_TIMES = {
    "snapshot_seconds": (20.0, "computing after which a run is put on disk"),
    "gap_seconds": (900.0, "how long an operation waits for one numbered before it"),
    "ask_seconds": (120.0, "how long a sample is drawn that nobody asks for"),
    "session_seconds": (900.0, "silence after which a client is taken for dead"),
    "retention_seconds": (86400.0, "how long answers, and what ended sessions leave, are kept"),
    "tidy_seconds": (30.0, "how often the engine looks what is due"),
}
"""The settings in seconds, with what they are when not given, and what they mean."""

_PATIENCE = 20.0
"""Seconds for which an engine that is ending may still hold the data directory."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ARGUMENTS name, and return the exit code."""
    options = _parser().parse_args(arguments)
    # Until it serves there is nothing to end well, and an import may swallow what Python raises.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not sys.stderr.isatty():
        # A bar that is drawn while weights are read is no line of a log.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        logs.configure()
        if options.command == "models":
            return _models(options)
        return asyncio.run(_serve(options))
    except (Refused, OperationFailed, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dn engine", description="Serve base models to clients of Tinker's protocol."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="answer Tinker's protocol over HTTP")
    models = commands.add_parser("models", help="show which base models would be served")
    for command in (serve, models):
        _add_where(command)
    models.add_argument("--json", action="store_true", help="for programs")
    _add_serving(serve)
    return parser


def _add_where(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--data-dir", type=Path, required=True, help="the folder that keeps everything")
    named = "a base model: a folder with safetensors, or a GGUF file; may be repeated"
    add("--model", action="append", default=[], metavar="ID=PATH", help=named)
    flag = argparse.BooleanOptionalAction
    add("--stand-in", action=flag, default=True, help="serve the small model of rehearsals")
    add("--hf-cache", action=flag, default=True, help="serve what the Hugging Face cache holds")


def _add_serving(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    add("--port", type=_port, default=0, help="the port; 0, the default, takes a free one")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (%(default)s)")
    dtype = "of the base weights (float32 on a CPU, bfloat16 on a GPU)"
    add("--dtype", choices=["float32", "bfloat16"], default=None, help=dtype)
    memory = "what may be filled of the device's memory (four fifths of what is free at start)"
    add("--memory-gib", type=_positive, default=None, metavar="GIB", help=memory)
    threads = "of PyTorch (as many as it chooses); another number gives other last bits"
    add("--threads", type=_threads, default=None, metavar="N", help=threads)
    checkpointing = "compute layers twice in training, and keep less in memory"
    add("--gradient-checkpointing", action="store_true", help=checkpointing)
    for name, (seconds, words) in _TIMES.items():
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=_positive, default=seconds, metavar="S", help=f"{words} (%(default)g)")


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e9:
            return float(text)
    raise argparse.ArgumentTypeError(f"`{text}` must be a number above 0")


def _whole(text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"`{text}` must be a whole number from {low} to {high}")


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _threads(text: str) -> int:
    return _whole(text, 1, 1024)


def _found(options: argparse.Namespace) -> dict[str, ServedModel]:
    options.data_dir = options.data_dir.expanduser().resolve()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    return discover(
        options.data_dir, options.model, stand_in=options.stand_in, cache=options.hf_cache
    )


def _models(options: argparse.Namespace) -> int:
    models = [
        {
            **model.describe(),
            "bytes": model.bytes,
            "architecture": model.architecture,
            "fingerprint": model.fingerprint,
        }
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
    lock = await _lock(options.data_dir)
    keyring = Keyring(master_key(options.data_dir))
    listening = _listen(options.host, options.port)
    # What computes is imported late: a wrong argument should not take seconds to be refused.
    import torch

    from dreadnode_engine.compute.base_models import Device
    from dreadnode_engine.http.server import create_app
    from dreadnode_engine.state.context import Settings

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
    lock.close()
    return 0 if server.started else 1


async def _lock(data_dir: Path) -> TextIO:
    """Hold DATA_DIR until what is returned is closed: two engines would undo each other's work."""
    lock = (data_dir / "engine.lock").open("a")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise Refused(
                    f"Another engine uses {data_dir}; stop that one, or choose another "
                    "directory with `--data-dir`"
                ) from None
            await asyncio.sleep(0.1)
        else:
            return lock


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
