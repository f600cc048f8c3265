"""`dn train sft`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from dreadnode.cli import views
from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.dataset import upload
from dreadnode.cli.output import hint, say
from dreadnode.errors import InputError

if TYPE_CHECKING:
    from dreadnode.client import ApiClient
    from dreadnode.wire import CapabilityRef, DatasetRef

TRAINING = Group("Training", sort_key=10)


def _number(text: str) -> Parameter:
    return Parameter(group=TRAINING, help=text)


def sft(
    *,
    model: Annotated[
        str, Parameter(help="A base model: see `dn train catalog`.", completer=model_ids)
    ],
    dataset: Annotated[
        str,
        Parameter(help="NAME@VERSION, or a .jsonl file, which is stored first."),
    ],
    rehearse: Annotated[
        bool,
        Parameter(
            help="Run it all on a small stand-in: same data, config and loop, for nothing.",
        ),
    ] = False,
    wait: Annotated[bool, Parameter(help="Wait until it has ended, showing its progress.")] = False,
    name: Annotated[str | None, Parameter(help="A name for people.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="A tag; may be given again.")] = (),
    eval_dataset: Annotated[
        str | None, Parameter(help="Data to measure the loss on, as `--dataset`.")
    ] = None,
    capability: Annotated[
        str | None, Parameter(help="NAME@VERSION whose system prompt goes before every row.")
    ] = None,
    steps: Annotated[int | None, _number("Optimizer steps, at most.")] = None,
    epochs: Annotated[int | None, _number("Times through the data.")] = None,
    batch_size: Annotated[int | None, _number("Rows in a batch.")] = None,
    gradient_accumulation_steps: Annotated[
        int | None, _number("Batches for each optimizer step.")
    ] = None,
    learning_rate: Annotated[float | None, _number("Of the Adam optimizer.")] = None,
    lora_rank: Annotated[int | None, _number("Rank of the adapter.")] = None,
    max_sequence_length: Annotated[
        int | None, _number("Tokens of a row that are kept; longer rows lose their end.")
    ] = None,
    learning_rate_schedule: Annotated[
        Literal["constant", "linear", "cosine"] | None,
        _number("What the rate does after the warm-up."),
    ] = None,
    warmup_steps: Annotated[int | None, _number("Steps in which the rate rises.")] = None,
    weight_decay: Annotated[float | None, _number("Of the Adam optimizer.")] = None,
    grad_clip_norm: Annotated[
        float | None, _number("Largest norm of a step's gradient; 0 is no limit.")
    ] = None,
    checkpoint_interval: Annotated[int | None, _number("Steps between checkpoints.")] = None,
    eval_interval: Annotated[
        int | None, _number("Steps between evaluations, which `--eval-dataset` allows.")
    ] = None,
    early_stopping_patience: Annotated[
        int | None, _number("Evaluations without a better loss, after which it ends.")
    ] = None,
    early_stopping_min_delta: Annotated[
        float | None, _number("By how much a loss must be lower to be better.")
    ] = None,
    train_on: Annotated[
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None,
        _number("Which answers of a conversation are learnt."),
    ] = None,
    system_prompt: Annotated[str | None, _number("Goes in front of every conversation.")] = None,
    no_shuffle: Annotated[bool, _number("Take the rows in the file's order.")] = False,
    strict: Annotated[bool, _number("Refuse the job for one unusable row.")] = False,
    seed: Annotated[int | None, _number("Of the data's order and the adapter's start.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Submit a supervised fine-tuning job.

    Everything that can be refused is refused before anything runs: an unknown model, data that
    cannot be rendered, a setting out of range. What is left out is the server's default, which the
    job then tells.
    """
    from dreadnode.training.jobs import SftConfig, SftRequest

    settings: dict[str, Any] = {
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "learning_rate": learning_rate,
        "lora_rank": lora_rank,
        "max_sequence_length": max_sequence_length,
        "checkpoint_interval": checkpoint_interval,
        "eval_interval": eval_interval,
        "early_stopping_patience": early_stopping_patience,
    }
    _check(settings)
    settings |= {
        "learning_rate_schedule": learning_rate_schedule,
        "warmup_steps": warmup_steps,
        "weight_decay": weight_decay,
        "grad_clip_norm": grad_clip_norm,
        "early_stopping_min_delta": early_stopping_min_delta,
        "train_on": train_on,
        "system_prompt": system_prompt,
        "shuffle": False if no_shuffle else None,
        "strict": strict or None,
        "seed": seed,
    }
    with common.client() as client:
        config = SftConfig(
            dataset_ref=_ref(client, dataset),
            eval_dataset_ref=_ref(client, eval_dataset) if eval_dataset else None,
            **settings,
        )
        job = client.create_training_job(
            SftRequest(
                model=model,
                config=config,
                capability_ref=_capability(capability),
                name=name,
                tags=tag,
                rehearse=rehearse,
            )
        )
        if wait:
            from dreadnode.cli.progress import follow

            say(f"submitted job {job.id}: {views.data(job.preflight) or 'queued'}")
            follow(client, job.id, common)
            return
    common.out.record(job, views.JOB)
    hint(f"`dn train wait {job.id}` follows it")


def _check(settings: dict[str, Any]) -> None:
    """Refuse numbers that can mean nothing, before a file is sent; the server knows the ranges."""
    for name, value in settings.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"`--{name.replace('_', '-')}` must be above 0, and is {value:g}")


def _capability(ref: str | None) -> CapabilityRef | None:
    if ref is None:
        return None
    from dreadnode.capabilities import parse_ref
    from dreadnode.wire import CapabilityRef

    name, version = parse_ref(ref)
    return CapabilityRef(name=name, version=version)


def _ref(client: ApiClient, dataset: str) -> DatasetRef:
    """Return what names DATASET to the server; a file is stored there first."""
    from dreadnode.jsonl import is_path, parse_ref
    from dreadnode.wire import DatasetRef

    if is_path(dataset):
        return upload(client, Path(dataset)).ref
    name, version = parse_ref(dataset)
    return DatasetRef(name=name, version=version)
