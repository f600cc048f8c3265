"""The watch on the parent process: when its end of our stdin closes, it has ended."""

import asyncio
import os
import stat
import sys
from collections.abc import Callable


def watch(on_end: Callable[[], None]) -> None:
    """Call ON_END in the running loop when stdin, if it is a pipe, is closed by the parent."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        try:
            ended = not os.read(descriptor, 4096)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            loop.remove_reader(descriptor)
            on_end()

    loop.add_reader(descriptor, readable)
