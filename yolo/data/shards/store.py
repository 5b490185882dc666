"""Read shards from a local folder, a web server or object storage, or the output of a command."""

import shlex
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote

from yolo.errors import DataError
from yolo.recipe.load.safe_read import open_regular
from yolo.recipe.schema.data import is_url

PIPE = "pipe:"
TRIES = 4
"""Attempts to open a server's file, to run a command, or to continue reading; the waits between are 1, 2 and 4 seconds."""
TIMEOUT_SECONDS = 60.0
BLOCK = 1 << 20
TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)
"""HTTP status codes that a retry may fix."""
SHELL = "/bin/sh"
STDERR_TAIL = 4096
"""Bytes at the end of stderr in which the last line is searched."""
NO_SUCH_COMMAND = (126, 127)
"""Exit codes of a shell that a retry cannot fix."""
REWRITE = "copy it again, or rewrite the shards with `yolo shard`"

Result = TypeVar("Result")


class ShardStore:
    """The files of one split."""

    def __init__(self, location: str) -> None:
        """`location` as `shard_location` returns it."""
        self.location = location

    def place(self, name: str) -> str:
        """A file's path, URL or command, as opened and as shown in messages."""
        if self.location.startswith(PIPE):
            return self.location.replace("{}", shlex.quote(name))
        if is_url(self.location):
            return f"{self.location.rstrip('/')}/{quote(name)}"
        return f"{self.location}/{name}"

    def open(self, name: str, first: int = 0, stop: int | None = None) -> "RangeReader":
        """Bytes `first` to `stop` of a file; opened when first read.

        A server is asked for that range only. A command's output starts at the file's first byte, so the bytes before
        `first` are discarded. Reading raises DataError naming the file.
        """
        return RangeReader(self.place(name), first, stop)

    def read(self, name: str, most: int) -> bytes:
        """A full file of at most `most` bytes. Raises DataError naming it."""
        content = b""
        with self.open(name) as reader:
            while block := reader.read(BLOCK):
                content += block
                if len(content) > most:
                    raise DataError(f"{self.place(name)}: has more than {most} bytes; {REWRITE}")
        return content


class RangeReader:
    """A byte range of a file that counts the bytes read. If a server or command breaks off, it continues from there."""

    def __init__(self, place: str, first: int, stop: int | None) -> None:
        self._place = place
        self._position = first
        self._stop = stop
        self._stream: Any = None
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as of a file. Raises DataError if the file cannot be opened or read."""
        if self._stop is not None:
            left = self._stop - self._position
            size = left if size < 0 else min(size, left)
        content = _retry(self._place, partial(self._read, size), "cannot be read: ")
        self._position += len(content)
        self.bytes_read += len(content)
        return content

    def _read(self, size: int) -> bytes:
        try:
            if self._stream is None:
                self._stream, skipped = _open_at(self._place, self._position, self._stop)
                self.bytes_read += skipped
            content: bytes = self._stream.read(size)
            # If a local file ends too early, the reader of its samples says after which sample.
            if not content and size != 0 and self._stop is not None and is_url(self._place):
                raise OSError("it ends too early")
            return content
        except (OSError, HTTPException):
            self._close()
            raise

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> "RangeReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _retry(place: str, attempt: Callable[[], Result], action: str = "") -> Result:
    """The attempt's result. Raises DataError when it has failed `TRIES` times, or if a retry cannot help."""
    for number in range(TRIES):
        try:
            return attempt()
        except (OSError, HTTPException) as error:
            is_temporary = is_url(place)
            if isinstance(error, HTTPError):
                is_temporary = error.code in TEMPORARY_STATUS
            elif isinstance(error, CommandFailed):
                is_temporary = error.is_temporary
            if number == TRIES - 1 or not is_temporary:
                raise DataError(f"{place}: {action}{error}") from error
        time.sleep(2**number)
    raise AssertionError  # the last attempt either returns or raises


def _open_at(place: str, first: int, stop: int | None) -> tuple[Any, int]:
    """A stream positioned at byte `first`, and how many bytes were read to get there."""
    if place.startswith(("http://", "https://")):
        stream, begin = _retry(place, partial(_open_url, place, first, stop))
    elif place.startswith(PIPE):
        stream, begin = PipedCommand(place.removeprefix(PIPE)), 0
    else:
        try:
            stream = open_regular(Path(place))
        except OSError as error:
            raise DataError(f"{place}: {(error.strerror or str(error)).lower()}") from error
        begin = stream.seek(first)
    position = begin
    try:
        while position < first:
            skipped = len(stream.read(min(first - position, BLOCK)))
            if not skipped:
                raise DataError(f"{place}: ends before its byte {first}; {REWRITE}")
            position += skipped
    except BaseException:
        stream.close()
        raise
    return stream, position - begin


def _open_url(url: str, first: int, stop: int | None) -> tuple[Any, int]:
    """The response, and the position of its first byte: some servers send the full file."""
    request = urllib.request.Request(url)
    if first or stop is not None:
        request.add_header("Range", f"bytes={first}-{'' if stop is None else stop - 1}")
    response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response, first if response.status == 206 else 0


class CommandFailed(OSError):
    """How a command ended, and the last line of its stderr."""

    def __init__(self, code: int, line: str) -> None:
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"the command {end}: {line or 'it gave no reason'}")
        self.is_temporary = code not in NO_SUCH_COMMAND


class PipedCommand:
    """A command from the recipe, run by a shell so that it may contain pipes and variables."""

    def __init__(self, command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close; a pipe would have to be drained
        self._process = subprocess.Popen(
            [SHELL, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes. Raises CommandFailed if there are no more because the command failed."""
        assert self._process.stdout is not None
        content = self._process.stdout.read(size)
        if (size < 0 or not content) and size != 0 and (code := self._process.wait()) != 0:
            raise CommandFailed(code, self._last_line())
        return content

    def close(self) -> None:
        """Stop the command, whether or not its output was read to the end."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(ProcessLookupError):
            self._process.terminate()
        self._process.wait()
        self._errors.close()

    def _last_line(self) -> str:
        end = self._errors.seek(0, 2)
        self._errors.seek(max(0, end - STDERR_TAIL))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
