"""Where shards lie: a local folder, a web server or object storage, or whatever a command prints."""

import shlex
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from yolo.data.shards.pipe import CommandFailed, PipedCommand
from yolo.errors import DataError
from yolo.recipe.load.safe_read import open_regular
from yolo.recipe.schema.data import is_url

PIPE = "pipe:"
TRIES = 4
"""To open a file of a server or run a command, or to read on in it, before that is an error; the waits between are 1, 2 and 4 seconds."""
TIMEOUT_SECONDS = 60.0
BLOCK = 1 << 20
PASSING = (408, 429, 500, 502, 503, 504)
"""HTTP's codes of what another try may mend."""


class ShardStore:
    """The files of one split."""

    def __init__(self, location: str) -> None:
        """As `shard_location` gives it."""
        self.location = location

    def place(self, name: str) -> str:
        """A file as a message names it, and as it is opened."""
        if self.location.startswith(PIPE):
            return self.location.replace("{}", shlex.quote(name))
        if is_url(self.location):
            return f"{self.location.rstrip('/')}/{quote(name)}"
        return f"{self.location}/{name}"

    def open(self, name: str, first: int = 0, stop: int | None = None) -> "RangeReader":
        """Bytes `first` to `stop` of a file.

        Of a server only that range is asked for; of a command, whose output begins at the file's first byte, what comes
        before is thrown away. Reading it raises DataError naming the file.
        """
        return RangeReader(self.place(name), first, stop)

    def read(self, name: str, most: int) -> bytes:
        """A whole file of at most so many bytes. Raises DataError naming it."""
        content = b""
        with self.open(name) as part:
            while block := part.read(BLOCK):
                content += block
                if len(content) > most:
                    raise DataError(f"{self.place(name)}: has more than {most} bytes; {ANEW}")
        return content


ANEW = "copy it again, or write the shards anew with `python -m yolo shard`"


class RangeReader:
    """A stretch of a file, which counts what was read of it. A server or command that breaks off is asked for the rest."""

    def __init__(self, place: str, first: int, stop: int | None) -> None:
        """Opened when it is first read."""
        self._place = place
        self._position = first
        self._stop = stop
        self._stream: Any = None
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as of a file. Raises DataError where it cannot be opened, or there is no reading on."""
        if self._stop is not None:
            left = self._stop - self._position
            size = left if size < 0 else min(size, left)
        for attempt in range(TRIES):
            try:
                content = self._read(size)
                break
            except (OSError, HTTPException) as error:
                if attempt == TRIES - 1 or not _may_pass(self._place, error):
                    raise DataError(f"{self._place}: cannot be read on: {error}") from error
            time.sleep(2**attempt)
            self._close()
        self._position += len(content)
        self.bytes_read += len(content)
        return content

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream, skipped = _open_at(self._place, self._position, self._stop)
            self.bytes_read += skipped
        content: bytes = self._stream.read(size)
        # Of a local file that ends too early the reader of its samples says after which.
        if not content and size != 0 and self._stop is not None and is_url(self._place):
            raise OSError("it ends too early")
        return content

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> "RangeReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _may_pass(place: str, error: Exception) -> bool:
    """Whether another try may go better."""
    return is_url(place) and (not isinstance(error, CommandFailed) or error.may_pass)


def _open_at(place: str, first: int, stop: int | None) -> tuple[Any, int]:
    """A stream that stands at byte `first`, and how many bytes were read to get there."""
    if _is_web(place):
        stream, begun = _open_url(place, first, stop)
    elif place.startswith(PIPE):
        stream, begun = PipedCommand(place.removeprefix(PIPE)), 0
    else:
        stream = _open(Path(place))
        begun = stream.seek(first)
    position = begun
    try:
        while position < first:
            got = len(stream.read(min(first - position, BLOCK)))
            if not got:
                raise DataError(f"{place}: ends before its byte {first}; {ANEW}")
            position += got
    except BaseException:
        stream.close()
        raise
    return stream, position - begun


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _open(path: Path) -> Any:
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _open_url(url: str, first: int, stop: int | None) -> tuple[Any, int]:
    """The answer, and the position of its first byte: some servers send the whole file."""
    request = urllib.request.Request(url)
    if first or stop is not None:
        last = "" if stop is None else stop - 1
        request.add_header("Range", f"bytes={first}-{last}")
    for attempt in range(TRIES):
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
            return answer, first if answer.status == 206 else 0
        except (OSError, HTTPException) as error:
            is_final = isinstance(error, urllib.error.HTTPError) and error.code not in PASSING
            if is_final or attempt == TRIES - 1:
                raise DataError(f"{url}: {error}") from error
        time.sleep(2**attempt)
    raise AssertionError  # the last try either returns or raises
