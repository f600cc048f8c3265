"""The output of a sandbox: its newest part, in two files of a bounded size."""

from pathlib import Path


class Output:
    """Keeps the newest output in two files, each at most half of the bound."""

    def __init__(self, folder: Path, bound: int) -> None:
        self._newest = folder / "output.log"
        self._previous = folder / "output.1.log"
        self._half = max(bound // 2, 1)
        self._file = self._newest.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append `data`, and drop the oldest half when the file is full."""
        try:
            self._file.write(data)
            self._size += len(data)
            if self._size > self._half:
                self._file.close()
                self._newest.replace(self._previous)
                self._file = self._newest.open("ab", buffering=0)
                self._size = 0
        except OSError:
            pass  # A full disk must not stop the job; its output is lost instead.
