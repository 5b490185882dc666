"""`yolo train`: the launcher is started, watched, and after a crash started again from the newest checkpoint.

A fault that passes (a rank out of memory, a host that reboots, a network that was cut) costs the steps since the
checkpoint. Whatever the user has to put right ends at once, and what crashes again and again ends after
`cluster.restarts` starts without a new checkpoint. Needs no torch.
"""

import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from yolo.errors import LaunchError, RecipeError
from yolo.exit_codes import LEFT, REFUSED, STOPPED
from yolo.launch.command import Launch, launch_of
from yolo.launch.failure import RankFailure, first_failure, has_left, was_refused
from yolo.launch.process import POLL_SECONDS, LauncherProcess
from yolo.launch.reachable_hosts import HostsLeft, hosts_left
from yolo.recipe import ResolvedRecipe, prepare
from yolo.training.checkpointing.run_directory import RunDirectory, resume_hint
from yolo.training.resilience.fencing import START, issue_token
from yolo.training.resilience.preemption import LEAVE_FILE, SIGNALS
from yolo.training.resilience.rank_status import RANKS, records_of

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
RAISED = 1
"""Python's exit code after an exception that nobody caught."""
PARTING_SECONDS = 5.0
"""On top of checkpoint.leave_seconds: for the first rank to see the request, and for processes to end."""


class LeftEarly(LaunchError):
    """Somebody asked the run to leave, and it has written a checkpoint."""

    exit_code = LEFT


class StoppedEarly(LaunchError):
    """Somebody stopped the run before it could write a checkpoint."""

    exit_code = STOPPED


@dataclass
class SignalState:
    """What signals have asked of this process."""

    numbers: list[int] = field(default_factory=list)

    @property
    def is_at_once(self) -> bool:
        """Ctrl-C a second time."""
        return self.numbers.count(signal.SIGINT) > 1

    @property
    def name(self) -> str:
        """Of the first signal; empty where none came."""
        return signal.Signals(self.numbers[0]).name if self.numbers else ""


def run_with_restarts(
    resolved: ResolvedRecipe, recipe: Path, overrides: Sequence[str], run: RunDirectory
) -> None:
    """Train a recipe in a run's folder, however often it has to be started.

    Raises LaunchError for what the user has to put right and for what crashes too often, LeftEarly or StoppedEarly
    where SIGTERM, SIGINT or SIGUSR1 ended it.
    """
    with _asked() as asked:
        Supervisor(resolved, recipe, tuple(overrides), run, asked).run_with_restarts()


@dataclass
class Supervisor:
    """The starts of one run."""

    resolved: ResolvedRecipe
    recipe: Path
    overrides: tuple[str, ...]
    run: RunDirectory
    asked: SignalState
    starts: int = 0
    failed_restarts: int = 0
    """Starts since the newest checkpoint, the present one aside."""
    _found: set[tuple[str, int]] = field(default_factory=set)
    """The checkpoints before the present start."""

    def run_with_restarts(self) -> None:
        """See the function of this name."""
        said = ""
        while True:
            death = self._start()
            if death is None:
                return
            if self._has_saved:
                self.failed_restarts = 0
            elif death.code == RAISED and death.words == said:
                raise LaunchError(
                    f"{_told(death)}\nIt did so twice, so it is no fault that passes; {self._advice}"
                )
            said = death.words
            if self.failed_restarts >= self.resolved.recipe.cluster.restarts:
                often = (
                    f"Started again {self.failed_restarts} times without a new checkpoint (cluster.restarts); "
                    if self.failed_restarts
                    else ""
                )
                raise LaunchError(f"{_told(death)}\n{often}{self._advice}")
            self.failed_restarts += 1
            self._wait(death)

    @property
    def _advice(self) -> str:
        return resume_hint(self.run)

    @property
    def _has_saved(self) -> bool:
        """Whether the newest checkpoint was written since the launcher was last started."""
        newest = self.run.newest_checkpoint
        return newest is not None and _identity(newest) not in self._found

    def _start(self) -> RankFailure | None:
        """Start the launcher and wait for its end. Returns None where the run has reached its own."""
        self._found = {_identity(folder) for folder in self.run.published()}
        self._clear()
        try:
            launch = self._launch()
        except HostsMissing as missing:
            return RankFailure(str(missing), "", None)
        except OSError as error:  # a disk that is full may be emptied
            trouble = LaunchError(f"{self.run.path}: {error}")
            if not self.starts:
                raise trouble from error
            return RankFailure(str(trouble), "", None)
        self.starts += 1
        print(launch, flush=True)
        process = LauncherProcess(launch, self.run.path, self.resolved.recipe.cluster.nodes == 1)
        leaving = _Leaving(
            self.asked, self.run, self.resolved.recipe.checkpoint.leave_seconds, process
        )
        code = process.wait(leaving.look)
        if self.run.finished.exists():
            self._clear()
            return None
        records = records_of(self.run.path, launch.port)
        if code == LEFT or has_left(records):
            self._clear()
            after = f" after {self.asked.name}" if self.asked.numbers else ""
            raise LeftEarly(f"left in order{after}; {self._advice}")
        if self.asked.numbers:
            self._clear()
            raise StoppedEarly(f"stopped; {self._advice}")
        if code == REFUSED or was_refused(records):
            self._clear()
            # After a checkpoint that was refused, going on from it is no advice.
            advice = f". Then {self._advice}" if self._has_saved else ""
            raise LaunchError(
                f"training ended with exit code {REFUSED}; the lines above say why{advice}"
            )
        return first_failure(records, code, process.was_stopped)

    def _launch(self) -> Launch:
        """Raises HostsMissing where too few hosts answer."""
        resolved, overrides, hostfile = self.resolved, self.overrides, None
        if self.starts and self.run.newest_checkpoint is not None:
            overrides += (f"checkpoint.resume={self.run.path}",)
        if self.starts and resolved.recipe.cluster.nodes > 1:
            left = hosts_left(resolved.recipe.cluster)
            if left.silent:
                resolved, overrides = self._with_fewer(left, overrides)
                hostfile = self.run.path / "hostfile"
                left.write(hostfile)
        token = issue_token(self.run.path)
        return launch_of(resolved, self.recipe, overrides, self.run, hostfile, self.starts, token)

    def _with_fewer(
        self, left: HostsLeft, overrides: tuple[str, ...]
    ) -> tuple[ResolvedRecipe, tuple[str, ...]]:
        """The recipe for the hosts that answer. Raises HostsMissing, or LaunchError where it does not work with them."""
        cluster, number = self.resolved.recipe.cluster, len(left.answering)
        least = cluster.nodes if cluster.least_nodes == "auto" else cluster.least_nodes
        if number < least:
            raise HostsMissing(f"{left}; cluster.least_nodes waits for {least} of {cluster.nodes}")
        overrides += (f"cluster.nodes={number}", "cluster.least_nodes=auto")
        if number == 1:
            overrides += ("cluster.hostfile=null",)
        try:
            resolved = prepare(self.recipe, overrides).resolved
        except RecipeError as error:
            raise LaunchError(
                f"{left}; the recipe does not work with {number} of {cluster.nodes} nodes: {error}"
            ) from error
        _say(f"{left}; going on with {number} of {cluster.nodes} nodes")
        return resolved, overrides

    def _wait(self, death: RankFailure) -> None:
        """Say what happened, and wait longer each time, all runs of a cluster not alike."""
        doubled = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (self.failed_restarts - 1))
        seconds = doubled * random.Random(f"{self.run.path} {self.starts}").uniform(1.0, 1.25)
        newest = self.run.newest_checkpoint
        whence = newest.name if newest else "the beginning"
        bound = self.resolved.recipe.cluster.restarts
        _say(
            f"{_told(death)}\nstarting again from {whence} in {seconds:.0f} s ({self.failed_restarts} of {bound} times without a new checkpoint)"
        )
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.asked.numbers:
                raise StoppedEarly(f"stopped; {self._advice}")
            time.sleep(POLL_SECONDS)

    def _clear(self) -> None:
        """Nothing of an earlier start may be taken for this one's."""
        for file in (LEAVE_FILE, START):
            (self.run.path / file).unlink(missing_ok=True)
        shutil.rmtree(self.run.path / RANKS, ignore_errors=True)
        with suppress(OSError):
            self.run.path.rmdir()  # where nothing has begun


class HostsMissing(LaunchError):
    """Fewer hosts answer than the recipe wants."""


@dataclass
class _Leaving:
    """Hands a request to leave on to the ranks, and ends what does not leave in time."""

    asked: SignalState
    run: RunDirectory
    leave_seconds: float
    process: LauncherProcess
    deadline: float | None = None

    def look(self) -> None:
        if not self.asked.numbers:
            return
        if self.deadline is None:
            self.deadline = time.monotonic() + self.leave_seconds + PARTING_SECONDS
            self.run.path.mkdir(parents=True, exist_ok=True)
            (self.run.path / LEAVE_FILE).touch()  # no content: a full disk takes a name
            _say(
                f"{self.asked.name}: the ranks write a checkpoint and leave, within {self.leave_seconds:g} s; Ctrl-C again stops them at once"
            )
        if self.asked.is_at_once or time.monotonic() > self.deadline:
            self.process.stop()


@contextmanager
def _asked() -> Iterator[SignalState]:
    asked = SignalState()

    def note(number: int, frame: FrameType | None) -> None:
        asked.numbers.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _identity(checkpoint: Path) -> tuple[str, int]:
    """Another one for a checkpoint that was saved again under its name."""
    return checkpoint.name, checkpoint.stat().st_ino


def _told(death: RankFailure) -> str:
    lines = [f"    {line}" for line in death.words.splitlines()]
    return "\n".join([death.text, *lines])


def _say(text: str) -> None:
    print(f"yolo: {text}", file=sys.stderr, flush=True)
