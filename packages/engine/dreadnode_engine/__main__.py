"""`python -m dreadnode_engine`: serve base models, list them, export adapters, write traces."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence

from dreadnode_engine import logs
from dreadnode_engine.base_models.discovery import find_models
from dreadnode_engine.cli import add_flags, read_flags
from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.service.trace_file import export_trace
from dreadnode_engine.serving import serve
from dreadnode_engine.settings import ExportSettings, ModelSources, Settings, TraceSettings
from dreadnode_engine.startup import say, without_collections
from dreadnode_engine.state.checkpoint_files import check_workers
from dreadnode_engine.workers.worker_process import run_worker


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
        if options.command == "worker":
            return run_worker(options.specification)
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
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{serve,models,export,trace}"
    )
    serve = commands.add_parser("serve", help="Serve base models and adapters over HTTP.")
    models = commands.add_parser("models", help="Show which base models would be served.")
    add_flags(serve, Settings)
    add_flags(models, ModelSources)
    export = commands.add_parser("export", help="Export an adapter for other programs.")
    add_flags(export, ExportSettings)
    trace = commands.add_parser("trace", help="Write the trace of a session, for Perfetto.")
    add_flags(trace, TraceSettings)
    # What `serve --workers` starts; people do not.
    commands.add_parser("worker").add_argument("specification")
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
    with without_collections():
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


def _models(sources: ModelSources, *, as_json: bool, context: int) -> int:
    found = find_models(sources, sources.data_dir)
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
        with without_collections():
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
    if settings.workers > 1 or settings.ray_address is not None:
        from dreadnode_engine.workers.serve import serve_workers

        return await serve_workers(settings)
    check_workers(settings.data_dir, settings.workers)
    return await serve(settings)


if __name__ == "__main__":
    sys.exit(main())
