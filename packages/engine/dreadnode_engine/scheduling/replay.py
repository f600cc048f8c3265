"""Replay: a run's state is rebuilt from its last snapshot and the operations after it."""

from collections.abc import Generator

from dreadnode_engine.compute.training_state import TrainingState
from dreadnode_engine.errors import OperationFailed
from dreadnode_engine.scheduling.context import Context
from dreadnode_engine.scheduling.journal_writes import load_body
from dreadnode_engine.scheduling.operations import OPERATIONS
from dreadnode_engine.scheduling.snapshots import load_snapshot, new_state
from dreadnode_engine.state import queries
from dreadnode_engine.state.records import Run


def rebuild(context: Context, run: Run, next_seq: int) -> Generator[None, None, TrainingState]:
    """Rebuild the state of RUN just before NEXT_SEQ.

    Every replayed operation was done and acknowledged once; repeating it gives the same bits.
    """
    if run.snapshot is None:
        first = context.journal.do_now(queries.find_result, f"{run.id}:0")
        if first is None or first.state != "done":
            raise OperationFailed(f"The run {run.id} could not be created; create a new one")
        state, after = new_state(context, run), 0
    else:
        state, after = load_snapshot(context, run, run.snapshot), run.snapshot
    yield
    replay = context.journal.do_now(queries.to_replay, run.id, after, next_seq)
    for request in replay:
        load_body(context, request)
        yield from OPERATIONS[request.kind](context, run, state, request)
        request.body = None
    return state
