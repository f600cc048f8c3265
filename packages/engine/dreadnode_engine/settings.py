"""Every setting of the engine: its type, default, bounds and help, stated once.

The flags of `dn engine serve` and `dn engine models` are made from these fields.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from dreadnode_engine.units import read_gib, read_mib, read_seconds, read_tokens

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Seconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, lt=1e9)]
MIB = 2**20
GIB = 2**30


class ModelSources(BaseModel):
    """Where base models come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Field(description="Folder for the journal, checkpoints and converted models.")
    model: tuple[str, ...] = Field(
        (),
        description="Serve the base model ID from a folder with safetensors or from a GGUF file. "
        "Repeatable.",
        json_schema_extra={"metavar": "ID=PATH"},
    )
    stand_in: bool = Field(True, description="Serve the small model that rehearsals run on.")
    hf_cache: bool = Field(True, description="Serve the models in the local Hugging Face cache.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().resolve()


class Settings(ModelSources):
    """How the engine serves."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that share the work, each with one GPU or its part of the CPU "
        "cores, and each with its own copy of the base weights.",
    )
    ray_address: str | None = Field(
        None,
        description="Run the workers on this Ray cluster: HOST:PORT, or auto. This machine must be "
        "part of it, and all its machines need the data directory under the same path.",
        json_schema_extra={"metavar": "ADDRESS"},
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device to compute on.")
    dtype: Literal["auto", "float32", "bfloat16"] | None = Field(
        None,
        description="Data type of the base weights. On a CPU bfloat16 is that of the projections "
        "only, and auto chooses it where the CPU computes it faster. Default: float32 on a CPU, "
        "bfloat16 on a GPU.",
    )
    memory_gib: Annotated[float | None, BeforeValidator(read_gib)] = Field(
        None,
        gt=0,
        lt=1e6,
        description="Memory that models, runs and computing may use, in GiB: of one GPU, of all "
        "workers of a machine, or with Ray of one worker. "
        "Default: four fifths of what is free, measured again whenever it matters.",
        json_schema_extra={"metavar": "GIB"},
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="PyTorch threads of a worker. Another number changes the last bits of results. "
        "Default: PyTorch's choice; with several workers an equal part of the CPU cores.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    micro_batch_tokens: Annotated[int | None, BeforeValidator(read_tokens)] = Field(
        None,
        ge=1,
        le=2**24,
        description="Tokens in one micro-batch of training. Another number changes the last bits "
        "of results. Default: 512 on a CPU, 2048 on a GPU.",
    )
    sampling_rows: int = Field(
        64, ge=1, le=4096, description="Sequences decoded together on one base model."
    )
    sampling_tokens: Annotated[int, BeforeValidator(read_tokens)] = Field(
        64 * 1024, ge=1, le=2**30, description="Tokens that one key-value cache may hold."
    )
    prefix_cache_mib: Annotated[int, BeforeValidator(read_mib)] = Field(
        512, ge=0, le=2**20, description="Cached prompts of one base model, in MiB; 0 turns it off."
    )
    backlog_mib_per_run: Annotated[int, BeforeValidator(read_mib)] = Field(
        1024, ge=1, le=2**20, description="Requests of one run or sampler that may wait, in MiB."
    )
    backlog_mib: Annotated[int, BeforeValidator(read_mib)] = Field(
        8192, ge=1, le=2**20, description="Requests of all clients that may wait, in MiB."
    )
    snapshot_seconds: Seconds = Field(
        20.0, description="Snapshot a run after this much computing: what a kill can cost."
    )
    # The SDK ends a poll after 45 seconds.
    hold_seconds: Annotated[float, BeforeValidator(read_seconds)] = Field(
        25.0, ge=0, le=40, description="Longest wait of one poll."
    )
    gap_seconds: Seconds = Field(
        900.0, description="How long an operation waits for a missing one before it."
    )
    unpolled_seconds: Seconds = Field(
        120.0, description="Drop a sampling request that no client polls for this long."
    )
    session_seconds: Seconds = Field(
        900.0, description="Treat a client as gone after this long without a heartbeat."
    )
    retention_seconds: Seconds = Field(
        24 * 3600.0, description="Keep results, and what ended sessions leave, for this long."
    )
    cleanup_seconds: Seconds = Field(30.0, description="Interval of the clean-up.")

    @property
    def micro_batch(self) -> int:
        """Tokens in one micro-batch of training."""
        return self.micro_batch_tokens or (2048 if self.device == "cuda" else 512)


class TraceSettings(BaseModel):
    """Which session's trace to write, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: str | None = Field(
        None,
        description="Id of the session. Default: the newest one.",
        json_schema_extra={"metavar": "ID"},
    )
    to: AbsolutePath | None = Field(
        None,
        description="File to write; it must not exist. Default: the session's id with `.pftrace`.",
        json_schema_extra={"metavar": "FILE"},
    )
    data_dir: AbsolutePath = Field(description="The engine's folder, with its journal.")


Form = Literal["peft", "merged", "gguf-lora", "vllm"]


class ExportSettings(BaseModel):
    """What to export, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: AbsolutePath = Field(
        description="Folder of the adapter.", json_schema_extra={"metavar": "DIR"}
    )
    format: Form = Field(description="Format of the export.")
    to: AbsolutePath = Field(
        description="Folder to write; it must not exist.", json_schema_extra={"metavar": "DIR"}
    )
    base: AbsolutePath | None = Field(
        None,
        description="Folder of the base model. Default: the local Hugging Face cache, or the "
        "stand-in.",
        json_schema_extra={"metavar": "DIR"},
    )
    data_dir: AbsolutePath = Field(description="The engine's folder, with converted models.")
    check: bool = Field(
        True, description="Load the export and compare its logits with the engine's."
    )
