"""Signals as something to wait for, beside the output of a process and for a bounded time."""

import os
import select
import signal


class ArrivedSignals:
    """The signals that have arrived, from which on `wait` returns at once.

    Args:
        numbers: the signals to receive, besides the one that a child process has ended.
    """

    def __init__(self, *numbers: int) -> None:
        self._arrived: set[int] = set()
        self._pipe, written = os.pipe()
        for end in (self._pipe, written):
            os.set_blocking(end, False)
        # Python writes each signal's number to this pipe, so none is missed between two waits.
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *numbers):
            signal.signal(number, lambda got, _frame: self._arrived.add(got))

    def __contains__(self, number: int) -> bool:
        return number in self._arrived

    def wait(self, seconds: float, *descriptors: int) -> list[int]:
        """Wait for one of DESCRIPTORS or a signal, SECONDS at most; return those to read from."""
        ready = select.select([self._pipe, *descriptors], [], [], seconds)[0]
        if self._pipe in ready:
            ready.remove(self._pipe)
            os.read(self._pipe, 4096)
        return ready
