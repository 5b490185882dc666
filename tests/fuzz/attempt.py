"""One bad input put before a real command, in this process or in one of its own, and watched: what it says, how it ends,
how long and how much memory it takes, and whether it writes, starts or runs anything that it has no reason to."""

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yolo.data.shards.stream
import yolo.data.shards.writer
import yolo.evaluation.commands
import yolo.model.io.ultralytics
import yolo.planner.table  # noqa: F401  what commands import when they run would be among an input's seconds
from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.errors import YoloError

SECONDS = 10.0
"""Of the processor, that an input may take; what else runs on the machine is not its fault."""
PATIENCE = 60.0
"""Seconds of the clock, after which it hangs."""
MEGABYTES = 1536
"""Of resident memory, by which an input may make the process grow."""
ADDRESS_SPACE = 6 << 30
"""Beyond what the process has: what asks for more gets a MemoryError, and the machine lives."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FORBIDDEN = frozenset({"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"})


class TooLong(BaseException):
    """The time is up. No Exception, so that nothing on the way takes it for one of its own."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int | None
    """None where it did not end by itself: an exception left it, or its time was up."""
    stdout: str
    stderr: str
    trace: str
    """Of the exception that left it."""
    seconds: float
    megabytes: float
    trespasses: tuple[str, ...]
    """Files written outside of the folder for output, and programs started."""


class _Watch:
    """Of what this process does to files and other processes, by Python's audit events; they cannot be unheard."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.thread = 0
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None or threading.get_ident() != self.thread:
            return
        if event in FORBIDDEN or event == "subprocess.Popen":
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._wrote(arguments[0])
        elif event in ("os.mkdir", "os.symlink", "os.link", "os.remove", "os.rename"):
            self._wrote(arguments[0])

    def _wrote(self, path: object) -> None:
        assert self.allowed is not None
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(path))
            if not place.startswith((str(self.allowed), "/dev/null", "/tmp/matplotlib")):
                self.seen.append(f"wrote {place}")


_watch = _Watch()


@dataclass(slots=True)
class Took:
    """What some work took."""

    seconds: float = 0.0
    megabytes: float = 0.0


@contextlib.contextmanager
def measured() -> Iterator[Took]:
    """Seconds of the processor and megabytes of growth of what is done within; TooLong where it hangs."""
    took = Took()
    before, start = _forget_peak(), time.process_time()
    with _limits(Path("/tmp")):
        yield took
    took.seconds, took.megabytes = time.process_time() - start, max(0.0, _peak() - before)


def refusal(work: Callable[[], object], kind: type[YoloError]) -> str | None:
    """What some work says that it cannot be done; None where it can."""
    try:
        work()
    except kind as error:
        return str(error)
    return None


def attempt(arguments: Sequence[str], output: Path) -> Ended:
    """`python -m yolo` with these arguments in this process; it may write into the folder `output` alone."""
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as Python opens them
    code, trace = None, ""
    before, start = _forget_peak(), time.process_time()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), _limits(output):
        try:
            code = main(list(arguments))
        except SystemExit as ended:  # argparse
            code = ended.code if isinstance(ended.code, int) else 1
        except TooLong:
            trace = f"hangs: took more than {PATIENCE:g} seconds"
        except BaseException:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            trace = traceback.format_exc()
    seconds = time.process_time() - start
    return Ended(
        code,
        _text_of(stdout),
        _text_of(stderr),
        trace,
        seconds,
        max(0.0, _peak() - before),
        tuple(_watch.seen),
    )


def attempt_apart(arguments: Sequence[str], seconds: float, folder: Path) -> Ended:
    """The same in a process of its own, whose end by a signal is seen as such."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "yolo", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        return Ended(None, stdout, stderr, f"took more than {seconds:g} seconds", seconds, 0.0, ())
    trace = stderr if "Traceback" in stderr else ""
    took = time.monotonic() - start
    return Ended(process.returncode, stdout, stderr, trace, took, 0.0, ())


@contextlib.contextmanager
def _limits(output: Path) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise TooLong

    _watch.seen = []
    _watch.thread = threading.get_ident()
    _watch.allowed = output.resolve()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, expire)
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, hard))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)
        _watch.allowed = None


def _forget_peak() -> float:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """Of resident memory, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8")
