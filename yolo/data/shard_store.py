"""Where shards lie: a local folder, a web server or object storage, or whatever a command prints."""

import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from webdataset.gopen import gopen

from yolo.errors import DataError
from yolo.recipe.sections.data import is_url

TRIES = 4
"""To open a file of a server, or to read on in it, before that is an error; the waits between are 1, 2 and 4 seconds."""
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
        if self.location.startswith("pipe:"):
            return self.location.replace("{}", name)
        if is_url(self.location):
            return f"{self.location.rstrip('/')}/{quote(name)}"
        return f"{self.location}/{name}"

    def open(self, name: str, first: int = 0, stop: int | None = None) -> "Part":
        """Bytes `first` to `stop` of a file.

        Of a server only that range is asked for; of a command, whose output begins at the file's first byte, what comes
        before is thrown away. Raises DataError naming the file.
        """
        return Part(self.place(name), first, stop)

    def read(self, name: str) -> bytes:
        """A whole file. Raises DataError naming it."""
        with self.open(name) as part:
            return part.read()


ANEW = "copy it again, or write the shards anew with `python -m yolo shard`"


class Part:
    """A stretch of a file, which counts what was read of it. A server that breaks off is asked for the rest."""

    def __init__(self, place: str, first: int, stop: int | None) -> None:
        """Raises DataError where it cannot be opened."""
        self._place = place
        self._position = first
        self._stop = stop
        self._stream, skipped = _open_at(place, first, stop)
        self.bytes_read = skipped

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as of a file. Raises DataError where there is no reading on."""
        if self._stop is not None:
            left = self._stop - self._position
            size = left if size < 0 else min(size, left)
        content = b""
        for attempt in range(TRIES):
            problem: object = "it ends too early"
            try:
                content = self._stream.read(size)
            except (OSError, HTTPException) as error:
                problem = error
            else:
                if content or size == 0 or self._stop is None or not _is_web(self._place):
                    break
            if self._place.startswith("pipe:"):
                problem = "the command failed"
            if not _is_web(self._place) or attempt == TRIES - 1:
                raise DataError(f"{self._place}: cannot be read on: {problem}")
            time.sleep(2**attempt)
            self._stream.close()
            self._stream, skipped = _open_at(self._place, self._position, self._stop)
            self.bytes_read += skipped
        self._position += len(content)
        self.bytes_read += len(content)
        return content

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a command that was not heard to its end
            self._stream.close()


def _open_at(place: str, first: int, stop: int | None) -> tuple[Any, int]:
    """A stream that stands at byte `first`, and how many bytes were read to get there."""
    position = 0
    if _is_web(place):
        stream, position = _open_url(place, first, stop)
    else:
        stream = _open(place)
        if not is_url(place):
            position = stream.seek(first)
    begun = position
    while position < first:
        try:
            got = len(stream.read(min(first - position, BLOCK)))
        except (OSError, HTTPException) as error:
            raise DataError(f"{place}: cannot be read on: {error}") from error
        if not got:
            raise DataError(f"{place}: ends before its byte {first}; {ANEW}")
        position += got
    return stream, position - begun


def _is_web(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _open(place: str) -> Any:
    try:
        return gopen(place, "rb")
    except OSError as error:
        raise DataError(f"{place}: {(error.strerror or str(error)).lower()}") from error


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
