"""`dn engine`: the engine's own commands, and its models with their catalog entries."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from dreadnode.cli.output import Column, Output, hint, say, widest_table
from dreadnode.cli.server.serve import default_data_dir
from dreadnode.local_server.python import ISOLATED, module_command

_COLUMNS: tuple[Column, ...] = (
    ("model", lambda model: model["model_name"]),
    ("GiB", lambda model: f"{model['bytes'] / 2**30:.2f}"),
    ("context", lambda model: f"{model['max_context_length']:,}"),
    ("architecture", lambda model: model["architecture"].removesuffix("ForCausalLM")),
    ("trains", lambda model: _trains(model)),
)

_NEEDS: tuple[Column, ...] = (
    ("catalog entry", lambda entry: entry["model_name"]),
    ("weights", lambda entry: _gib(entry.get("weights_bytes"))),
    ("training", lambda entry: _gib(entry.get("training_bytes"))),
    ("sampling", lambda entry: _gib(entry.get("sampling_bytes"))),
    ("here", lambda entry: _here(entry)),
    ("architecture", lambda entry: entry.get("architecture", "-")),
)
_CUT = ("model", "trains", "catalog entry", "here")
"""Columns that are cut where the terminal is too narrow for them; it has no architecture then."""


def engine(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
) -> None:
    """Run the engine alone, list its models, export an adapter, or write a session's trace.

    `--help` after `dn engine serve`, `models`, `export` or `trace` lists the flags.
    """
    command = [*module_command("dreadnode_engine"), *arguments]
    sys.stdout.flush()
    asks_help = bool({"--help", "-h"}.intersection(arguments))
    if arguments[:1] == ("models",) and not asks_help:
        _models(command)
        return
    if arguments[:1] == ("trace",) and not asks_help:
        _add_data_dir(command)
    os.execve(sys.executable, command, {**os.environ, **ISOLATED})  # noqa: S606 - our own program


def _models(command: list[str]) -> None:
    """List the models of the engine, each with its catalog entry."""
    from dreadnode.training.models import get_training_model

    as_json = "--json" in command
    start = " ".join(["dn serve", *_model_flags(command)])
    _add_data_dir(command)
    answer = subprocess.run(
        [*command, "--json"],
        env={**os.environ, **ISOLATED},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(answer.returncode)
    found = json.loads(answer.stdout)
    models: list[dict[str, Any]] = found["models"]
    for model in models:
        entry = get_training_model(model["model_name"])
        model["catalog"] = entry.tinker_id if entry else None
        model["algorithms"] = list(entry.supported_algorithms) if entry else []
    needs = found["needs"]
    entries = _catalog_entries(models, needs["models"])
    out = Output(as_json=as_json)
    if as_json:
        out.json({"models": models, "needs": needs, "catalog": entries})
        return
    tables = [_table(models, _COLUMNS)] if models else []
    tables.append(_table(entries, _NEEDS))
    for lines, _ in tables:
        out.text(*([] if lines is tables[0][0] else [""]), *lines)
    if not all(is_whole for _, is_whole in tables):
        say("a wider terminal and `--json` show all columns and whole ids")
    say(
        f"GiB of memory for {needs['dtype']} weights on the {needs['device']}, for training a "
        f"sequence of {needs['context']:,} tokens at rank {needs['rank']}, and for sampling one; "
        f"the engine may use {_gib(needs['budget_bytes'])} here"
    )
    if not models:
        say("no models; add one with `--model ID=PATH`")
        return
    if trained := next((model for model in models if model["catalog"]), None):
        hint(f"to train one: `{start}`, then `dn train sft --model {trained['model_name']}`")
    else:
        hint("`--model ID=PATH` with the id of an entry of `dn train catalog` makes it trainable")


def _table(items: list[dict[str, Any]], columns: tuple[Column, ...]) -> tuple[list[str], bool]:
    """Return a table of ITEMS that fits the terminal, and whether it shows everything."""
    narrow = [each for each in columns if each[0] != "architecture"]
    return widest_table(items, columns, narrow, _CUT)


def _add_data_dir(command: list[str]) -> None:
    """Add the data directory of `dn serve` to COMMAND if it names none."""
    if not any(each.split("=")[0] == "--data-dir" for each in command):
        command += ["--data-dir", str(default_data_dir())]


def _model_flags(command: list[str]) -> list[str]:
    """Return each `--model ID=PATH` of COMMAND, quoted for a shell."""
    flags = []
    for at, word in enumerate(command):
        if word == "--model":
            flags += [shlex.join(command[at : at + 2])]
        elif word.startswith("--model="):
            flags += [shlex.quote(word)]
    return flags


def _catalog_entries(
    models: list[dict[str, Any]], needs: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what each active entry of the catalog needs, and whether its weights are here."""
    from dreadnode.training.models import TINKER_MODELS

    served = {model["catalog"] for model in models}
    entries = []
    for entry in TINKER_MODELS:
        if entry.status != "active":
            continue
        # The weights have the name without the catalog's variant of the context.
        known = needs.get(entry.tinker_id) or needs.get(entry.tinker_id.partition(":")[0]) or {}
        here = {"model_name": entry.tinker_id, "weights_here": entry.tinker_id in served}
        entries.append(here | known)
    return entries


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:,.1f}"


def _here(entry: dict[str, Any]) -> str:
    """Return whether this machine can train and sample ENTRY, and why it cannot."""
    if "fits" not in entry:
        return "unknown: no published settings"
    if not entry["fits"]:
        return "too large"
    return "yes" if entry["weights_here"] else "fits, without weights"


def _trains(model: dict[str, Any]) -> str:
    if model["catalog"]:
        return ", ".join(model["algorithms"])
    return "rehearsals" if model["stand_in"] else "not in the catalog"
