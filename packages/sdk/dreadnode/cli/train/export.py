"""`dn train export`: what a job trained, in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say
from dreadnode.cli.server.serve import default_data_dir
from dreadnode.cli.train.jobs import FINAL, Job, Weights

if TYPE_CHECKING:
    from dreadnode.training.files import ExportResult

_NEXT = {
    "peft": "python examples/load_adapter.py --base BASE --adapter {folder} QUESTION",
    "merged": "vllm serve {folder}",
    "gguf-lora": "llama-server --model BASE.gguf --lora {folder}/adapter.gguf",
    "vllm": "vllm serve BASE --enable-lora --max-lora-rank RANK --lora-modules trained={folder}",
}


def export(
    job: Job,
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder to write; it must not exist.")],
    format: Annotated[  # noqa: A002 - the name of the flag
        Literal["peft", "merged", "gguf-lora", "vllm"],
        Parameter(
            help="`merged` (default): the base model with the adapter merged into its weights. "
            "`gguf-lora`: an adapter for llama.cpp. `vllm` and `peft`: an adapter for vLLM and for "
            "PEFT."
        ),
    ] = "merged",
    weights: Weights = FINAL,
    base: Annotated[
        Path | None,
        Parameter(
            help="Folder with the base model's weights; else the local Hugging Face cache, and "
            "for rehearsals the stand-in."
        ),
    ] = None,
    check: Annotated[
        bool,
        Parameter(
            negative="--no-check",
            help="Load the export in a new process and compare its logits with the engine's; this "
            "needs memory for the model in float32.",
        ),
    ] = True,
    common: Common = DEFAULT,
) -> None:
    """Export what a job trained for transformers, vLLM, llama.cpp or PEFT.

    The export is made on this machine, which needs the engine's package and the base model's
    weights. A merged model is written tensor by tensor and takes little memory. The largest
    difference of logits is printed and written on the export's model card. When an export fails,
    nothing is left.
    """
    weights.refuse_two_choices()
    from dreadnode.local_server.export import export_job, require_engine

    require_engine()
    with common.client() as client:
        result = export_job(
            client,
            client.find_training_job(job),
            to,
            format=format,
            checkpoint=weights.checkpoint,
            best=weights.best,
            base=base,
            check=check,
            data_dir=default_data_dir(),
        )
    _describe(result, to)
    if common.json:
        common.out.json(result.model_dump())
        return
    common.out.text(str(to))
    hint(f"to use it: `{_NEXT[format].format(folder=to)}`")


def _describe(result: ExportResult, to: Path) -> None:
    for file in result.files:
        say(f"{to / file.path}  {file.bytes:,} bytes")
    if result.largest_difference is None:
        say("the export was not checked")
        return
    say(
        f"checked in a new process: logits differ from the engine's by at most "
        f"{result.largest_difference:.2g}; the adapter changes them by up to "
        f"{result.adapter_effect or 0:.3g}"
    )
