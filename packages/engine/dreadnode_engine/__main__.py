"""`python -m dreadnode_engine`: serve base models, list them, export adapters, write traces."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvicorn

from dreadnode_engine import logs
from dreadnode_engine.base_models.discovery import ServedModel, discover
from dreadnode_engine.cli import add_flags, read_flags
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.service.keys import Keyring, master_key
from dreadnode_engine.service.trace_file import export_trace
from dreadnode_engine.settings import ExportSettings, ModelSources, Settings, TraceSettings
from dreadnode_engine.startup import announce, end_with_parent, listen, lock_data_dir, say

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ARGUMENTS name, and return the exit code."""
    # The journal has the data of clients, and checkpoints are their weights.
    os.umask(0o077)
    parser = _parser()
    options = parser.parse_args(arguments)
    # Until the server runs, SIGINT ends the process immediately.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not sys.stderr.isatty():
        # Progress bars do not belong in a log.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        logs.configure()
        if options.command == "models":
            sources = read_flags(parser, options, ModelSources)
            return _models(sources, as_json=options.json, context=options.context)
        if options.command == "export":
            return _export(parser, options)
        if options.command == "trace":
            return _trace(read_flags(parser, options, TraceSettings))
        return asyncio.run(_serve(read_flags(parser, options, Settings)))
    except KeyboardInterrupt:
        return 130
    except (Refused, OperationFailed, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dn engine", description="Serve base models to clients of Tinker's protocol."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="Serve base models and adapters over HTTP.")
    models = commands.add_parser("models", help="Show which base models would be served.")
    add_flags(serve, Settings)
    add_flags(models, ModelSources)
    export = commands.add_parser("export", help="Export an adapter for other programs.")
    add_flags(export, ExportSettings)
    trace = commands.add_parser("trace", help="Write the trace of a session, for Perfetto.")
    add_flags(trace, TraceSettings)
    models.add_argument("--json", action="store_true", help="Print JSON.")
    models.add_argument(
        "--context",
        type=_tokens,
        default=4096,
        metavar="TOKENS",
        help="Length of the sequence that memory is estimated for. Default: 4096.",
    )
    return parser


def _export(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    # The libraries that read and write weights take seconds to import.
    from dreadnode_engine.exports.export import run

    # An export that is ended deletes what it has written.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    result = run(read_flags(parser, options, ExportSettings))
    say(sys.stdout, json.dumps(result, indent=2))
    return 0


def _trace(settings: TraceSettings) -> int:
    session, file = export_trace(settings)
    say(sys.stdout, json.dumps({"session_id": session, "file": str(file)}, indent=2))
    return 0


def _tokens(value: str) -> int:
    """Return VALUE as a positive number of tokens."""
    if not value.isdecimal() or not 0 < int(value) <= 2**24:
        raise argparse.ArgumentTypeError(f"`{value}` must be from 1 to {2**24}")
    return int(value)


def _found(sources: ModelSources) -> dict[str, ServedModel]:
    sources.data_dir.mkdir(parents=True, exist_ok=True)
    return discover(
        sources.data_dir, sources.model, stand_in=sources.stand_in, cache=sources.hf_cache
    )


def _models(sources: ModelSources, *, as_json: bool, context: int) -> int:
    found = _found(sources)
    models = [
        {
            **model.describe(),
            "bytes": model.bytes,
            "architecture": model.architecture,
            "fingerprint": model.fingerprint,
        }
        for _, model in sorted(found.items())
    ]
    if as_json:
        # torch is imported late: the list alone needs none of it.
        from dreadnode_engine.compute.needs import describe_needs

        needs = describe_needs(found, context)
        say(sys.stdout, json.dumps({"models": models, "needs": needs}, indent=2))
        return 0
    for model in models:
        size = f"{model['bytes'] / 2**30:.2f} GiB"
        say(sys.stdout, f"{model['model_name']}  {size}  {model['tokenizer_id']}")
    if not models:
        say(sys.stderr, "no models; name one with `--model ID=PATH`")
    return 0


async def _serve(settings: Settings) -> int:
    models = _found(settings)
    lock = await lock_data_dir(settings.data_dir)
    keyring = Keyring(master_key(settings.data_dir))
    listening = listen(settings.host, settings.port)
    # torch is imported late: a wrong argument is refused without the seconds that this takes.
    import torch

    from dreadnode_engine.compute.probe import check_architecture
    from dreadnode_engine.http.app import create_app
    from dreadnode_engine.http.connection import Connection

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise Refused("`--device cuda` needs a CUDA GPU, and PyTorch finds none on this machine")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    named = {pair.partition("=")[0] for pair in settings.model}
    for model_id, model in list(models.items()):
        try:
            check_architecture(model)
        except Refused as refusal:
            if model_id in named:
                raise
            log.warning("skipped: %s", refusal)
            del models[model_id]
    app = create_app(settings, models, keyring)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
        http=Connection,
    )
    server = uvicorn.Server(config)
    end_with_parent()
    # uvicorn raises the signal that ended it a second time, when nothing is left to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    ready = asyncio.create_task(announce(server, listening))
    await server.serve(sockets=[listening])
    ready.cancel()
    lock.close()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
