"""Snapshots of runs: their state on disk."""

from dreadnode_engine.compute.adapters import LoraShape
from dreadnode_engine.compute.training_state import TrainingState, read_state, write_tensors
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Run, WithAdapter


def shape_of(record: WithAdapter) -> LoraShape:
    """Return the LoRA shape of a run, a checkpoint or an upload."""
    flags = (record.train_mlp, record.train_attn, record.train_unembed)
    return LoraShape(record.rank, *(bool(flag) for flag in flags))


def new_state(context: Context, run: Run) -> TrainingState:
    """Return the state of RUN before its first operation."""
    context.residency.reserve_run(run.base_model, shape_of(run))
    base, shape = context.residency.base(run.base_model), shape_of(run)
    wrapper, _ = base.wrapper_for(shape)
    return TrainingState(base, shape, wrapper.initial(run.seed))


def take_snapshot(context: Context, run: Run, state: TrainingState, seq: int) -> None:
    """Write the state of RUN after SEQ to disk, and delete what no replay needs any more."""
    write_tensors(state.tensors(), context.files.snapshot(run.id, seq))
    context.journal.do_now(queries.set_snapshot, run.id, seq)
    run.snapshot = seq
    context.files.delete_snapshots(run.id, keep=seq)


def load_snapshot(context: Context, run: Run, seq: int) -> TrainingState:
    """Return the state of RUN after SEQ."""
    context.residency.reserve_run(run.base_model, shape_of(run))
    base = context.residency.base(run.base_model)
    return read_state(base, shape_of(run), context.files.snapshot(run.id, seq))
