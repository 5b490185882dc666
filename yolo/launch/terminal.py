"""Output to a terminal or a pipe that may be gone before the run is. Needs no torch."""

import contextlib
import errno
import io
import os
import sys
from typing import Any

GONE = (errno.EIO, errno.EPIPE)
"""Of a terminal whose window or ssh connection was closed, and of a pipe without a reader."""


class _Output(io.FileIO):
    """A standard output that is replaced by /dev/null once nobody can read it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())  # also for what is written past Python
            return super().write(data) or 0


def survive_closed_terminal() -> None:
    """Let `print` and logging go on silently in this process after its terminal was closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no file, such as in a test
            stream.flush()
            raw = _Output(stream.fileno(), "wb", closefd=False)
            output = io.TextIOWrapper(
                raw if stream.write_through else io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, output)
