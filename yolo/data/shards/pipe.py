"""The output of a shell command as a file that is read from front to back."""

import subprocess
import tempfile
from contextlib import suppress

SHELL = "/bin/sh"
LAST_WORDS = 4096
"""Bytes of what a command wrote to stderr, among which its last line is looked for."""
NO_SUCH_COMMAND = (126, 127)
"""A shell's codes of what another try cannot mend."""


class CommandFailed(OSError):
    """How a command ended, and its last line."""

    def __init__(self, code: int, line: str) -> None:
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"the command {end}: {line or 'it gave no reason'}")
        self.may_pass = code not in NO_SUCH_COMMAND


class PipedCommand:
    """A command of the recipe's author, run by a shell so that it may hold pipes and variables."""

    def __init__(self, command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close; a pipe would have to be emptied meanwhile
        self._process = subprocess.Popen(
            [SHELL, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes. CommandFailed where there are no more because the command failed."""
        assert self._process.stdout is not None
        content = self._process.stdout.read(size)
        if (size < 0 or not content) and size != 0 and (code := self._process.wait()) != 0:
            raise CommandFailed(code, self._last_line())
        return content

    def close(self) -> None:
        """End it, read to its end or not."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(ProcessLookupError):
            self._process.terminate()
        self._process.wait()
        self._errors.close()

    def _last_line(self) -> str:
        end = self._errors.seek(0, 2)
        self._errors.seek(max(0, end - LAST_WORDS))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
