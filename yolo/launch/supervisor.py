"""`yolo train`: start the launcher, watch it, and restart it after a crash from the newest checkpoint.

A temporary fault (a rank out of memory, a host that reboots, a cut network) costs the steps since the checkpoint.
An error that the user has to correct ends the run at once. Repeated crashes end it after `cluster.restarts` starts
without a new checkpoint. Needs no torch.
"""

import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from yolo.errors import LaunchError, RecipeError
from yolo.exit_codes import LEFT, PORT_TAKEN, REFUSED, STOPPED
from yolo.launch.command import launch_training
from yolo.launch.failure import RankFailure, first_failure
from yolo.launch.mpi import launcher_of
from yolo.launch.port import DEFAULT_PORT, reserved_port
from yolo.launch.process import POLL_SECONDS, LauncherProcess
from yolo.preflight.local import listed_hosts
from yolo.preflight.ssh import why_silent
from yolo.recipe import ResolvedRecipe, prepare_loaded
from yolo.recipe.resolve.hostfile import ListedHost
from yolo.training.checkpointing.run_directory import RunDirectory, resume_hint
from yolo.training.resilience.fencing import START, issue_token
from yolo.training.resilience.preemption import LEAVE_FILE, stop_signals
from yolo.training.resilience.rank_status import RANKS, records_of

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
UNCAUGHT_EXCEPTION = 1
"""Python's exit code after an uncaught exception."""
SHUTDOWN_SECONDS = 5.0
"""In addition to checkpoint.leave_seconds: for the first rank to see the request, and for processes to end."""
MOST_PORTS = 20
"""Ports that may be taken by others on the first host, one after another."""
SSH_SECONDS = 10
SSH_THREADS = 64


class StoppedWithCheckpoint(LaunchError):
    """The run was asked to stop, and has written a checkpoint."""

    exit_code = LEFT


class StoppedWithoutCheckpoint(LaunchError):
    """The run was stopped before it could write a checkpoint."""

    exit_code = STOPPED


class HostsMissing(LaunchError):
    """Fewer hosts answer than the recipe needs."""


def run_with_restarts(
    resolved: ResolvedRecipe, overrides: Sequence[str], run: RunDirectory
) -> None:
    """Train a recipe, loaded with these overrides, in a run's folder, with as many starts as needed.

    Raises LaunchError for errors that the user has to correct and for repeated crashes, StoppedWithCheckpoint or
    StoppedWithoutCheckpoint if SIGTERM, SIGINT, SIGHUP or SIGUSR1 ended the run.
    """
    with _recorded_signals() as signals:
        Supervisor(resolved, tuple(overrides), run, signals).run_with_restarts()


@dataclass
class Supervisor:
    """The starts of one run."""

    resolved: ResolvedRecipe
    overrides: tuple[str, ...]
    run: RunDirectory
    signals: list[int]
    """Those that this process has received."""
    starts: int = 0
    failed_restarts: int = 0
    """Starts since the newest checkpoint, without the present one."""
    next_port: int = DEFAULT_PORT
    """Above that of the start before, whose ranks may still hold it on a host that lost its connection."""
    taken_ports: int = 0
    """Starts one after another whose ranks met another run, or found the port taken."""
    _earlier_checkpoints: set[tuple[str, int]] = field(default_factory=set)
    """Identities of the checkpoints before the present start."""
    _deadline: float | None = None
    """When the ranks must have stopped; None without a request."""

    def run_with_restarts(self) -> None:
        """See the function of this name."""
        restarts = self.resolved.recipe.cluster.restarts
        previous_lines = ""
        while (failure := self._start()) is not None:
            if failure.code == PORT_TAKEN:
                continue
            self.taken_ports = 0
            if self._has_new_checkpoint:
                self.failed_restarts = 0
            elif failure.code == UNCAUGHT_EXCEPTION and failure.last_lines == previous_lines:
                raise LaunchError(
                    f"{_report(failure)}\nIt did so twice, so the fault is not temporary; {self._advice}"
                )
            previous_lines = failure.last_lines
            if self.failed_restarts >= restarts:
                advice = self._advice
                if self.failed_restarts:
                    advice = f"Started again {restarts} times without a new checkpoint (cluster.restarts); {advice}"
                raise LaunchError(f"{_report(failure)}\n{advice}")
            self.failed_restarts += 1
            self._wait(failure)

    @property
    def _advice(self) -> str:
        return resume_hint(self.run)

    @property
    def _has_new_checkpoint(self) -> bool:
        """Whether the newest checkpoint was written since the last start."""
        newest = self.run.newest_checkpoint
        return newest is not None and _identity(newest) not in self._earlier_checkpoints

    def _start(self) -> RankFailure | None:
        """Start the launcher and wait for its end. Returns None if the run is finished."""
        self._earlier_checkpoints = {_identity(folder) for folder in self.run.published()}
        self._clear()
        try:
            resolved, added = self._for_reachable_hosts()
            token = issue_token(self.run.path)
        except HostsMissing as missing:
            return RankFailure(str(missing))
        except OSError as error:
            if not self.starts:
                raise LaunchError(f"{self.run.path}: {error}") from error
            return RankFailure(f"{self.run.path}: {error}")  # a full disk may get space again
        cluster = resolved.recipe.cluster
        with reserved_port(cluster, self.next_port) as port:
            self.next_port = port + 1
            launch = launch_training(resolved, [*self.overrides, *added], self.run, port, token)
            self.starts += 1
            print(launch, flush=True)
            owns_ranks = cluster.hostfile is None and launcher_of(cluster) != "slurm"
            process = LauncherProcess(launch, self.run.path, owns_ranks)
            code = process.wait(lambda: self._pass_on_signals(process))
        records = records_of(self.run.path, port)
        codes = {code} | {ending.code for record in records if (ending := record.exit)}
        is_finished = self.run.finished.exists()
        if is_finished or self.signals or codes & {LEFT, REFUSED}:
            self._clear()
            with suppress(OSError):
                self.run.path.rmdir()  # if nothing was written
        if is_finished:
            return None
        if LEFT in codes:
            after = f" after {self._signal_name}" if self.signals else ""
            raise StoppedWithCheckpoint(f"stopped with a checkpoint{after}; {self._advice}")
        self._raise_if_stopped()
        if REFUSED in codes:
            # The error may come from the checkpoint that the run started from: do not advise to resume from it.
            advice = f". Then {self._advice}" if self._has_new_checkpoint else ""
            raise LaunchError(
                f"training ended with exit code {REFUSED}; the lines above say why{advice}"
            )
        if PORT_TAKEN in codes:
            return self._with_the_next_port(port)
        return first_failure(records, code, process.was_stopped)

    def _with_the_next_port(self, port: int) -> RankFailure:
        """Let the next start try the next port. Raises LaunchError if the recipe allows no other."""
        self.taken_ports += 1
        if self.resolved.recipe.cluster.master_port != "auto":
            raise LaunchError(
                f"cluster.master_port: {port} is taken on the first host; set another, or auto"
            )
        if self.taken_ports == MOST_PORTS:
            raise LaunchError(
                f"cluster.master_port: {MOST_PORTS} ports up to {port} were taken on the first host; set one that is free"
            )
        _print(f"port {port} is taken on the first host; starting again with the next")
        return RankFailure("the port was taken", code=PORT_TAKEN)

    def _pass_on_signals(self, process: LauncherProcess) -> None:
        """Pass a request to stop on to the ranks, and end them if they do not stop in time."""
        if not self.signals:
            return
        if self._deadline is None:
            leave_seconds = self.resolved.recipe.checkpoint.leave_seconds
            self._deadline = time.monotonic() + leave_seconds + SHUTDOWN_SECONDS
            self.run.path.mkdir(parents=True, exist_ok=True)
            (self.run.path / LEAVE_FILE).touch()  # an empty file fits on a full disk
            _print(
                f"{self._signal_name}: the ranks write a checkpoint and stop, within {leave_seconds:g} s; Ctrl-C again stops them at once"
            )
        is_second_ctrl_c = self.signals.count(signal.SIGINT) > 1
        if is_second_ctrl_c or time.monotonic() > self._deadline:
            process.stop()

    @property
    def _signal_name(self) -> str:
        return signal.Signals(self.signals[0]).name

    def _raise_if_stopped(self) -> None:
        if self.signals:
            raise StoppedWithoutCheckpoint(f"stopped; {self._advice}")

    def _for_reachable_hosts(self) -> tuple[ResolvedRecipe, list[str]]:
        """The recipe of the next start, and its further overrides. Raises HostsMissing if too few hosts answer."""
        added: list[str] = []
        if self.starts and self.run.newest_checkpoint is not None:
            added.append(f"checkpoint.resume={self.run.path}")
        cluster = self.resolved.recipe.cluster
        if not self.starts or cluster.hostfile is None:
            return self.resolved, added
        reachable, problem = _reachable(listed_hosts(cluster))
        if not problem:
            return self.resolved, added
        hostfile = self.run.path / "hostfile"
        added += [f"cluster.hostfile={hostfile}", f"cluster.nodes={len(reachable)}"]
        added += ["cluster.least_nodes=auto"]
        return self._with_fewer_nodes(reachable, problem, hostfile, added), added

    def _with_fewer_nodes(
        self, reachable: Sequence[ListedHost], problem: str, hostfile: Path, added: Sequence[str]
    ) -> ResolvedRecipe:
        """The recipe for the reachable hosts, which `hostfile` then lists.

        Raises HostsMissing, or LaunchError if it does not work with them.
        """
        cluster, number = self.resolved.recipe.cluster, len(reachable)
        least = cluster.nodes if cluster.least_nodes == "auto" else cluster.least_nodes
        if number < least:
            raise HostsMissing(
                f"{problem}; cluster.least_nodes waits for {least} of {cluster.nodes}"
            )
        lines = [f"{host.name} slots={host.slots}\n" for host in reachable]
        hostfile.write_text("".join(lines), encoding="utf-8")
        try:
            resolved = prepare_loaded(self.resolved.loaded.with_values(*added)).resolved
        except RecipeError as error:
            raise LaunchError(
                f"{problem}; the recipe does not work with {number} of {cluster.nodes} nodes: {error}"
            ) from error
        _print(f"{problem}; continuing with {number} of {cluster.nodes} nodes")
        return resolved

    def _wait(self, failure: RankFailure) -> None:
        """Report the failure and wait: longer each time, with a jitter that differs between the runs of a cluster."""
        doubled = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (self.failed_restarts - 1))
        seconds = doubled * random.Random(f"{self.run.path} {self.starts}").uniform(1.0, 1.25)
        newest = self.run.newest_checkpoint
        origin = newest.name if newest else "the beginning"
        limit = self.resolved.recipe.cluster.restarts
        _print(
            f"{_report(failure)}\nstarting again from {origin} in {seconds:.0f} s ({self.failed_restarts} of {limit} times without a new checkpoint)"
        )
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._raise_if_stopped()
            time.sleep(POLL_SECONDS)

    def _clear(self) -> None:
        """Remove the files of an earlier start."""
        for file in (LEAVE_FILE, START):
            (self.run.path / file).unlink(missing_ok=True)
        shutil.rmtree(self.run.path / RANKS, ignore_errors=True)


@contextmanager
def _recorded_signals() -> Iterator[list[int]]:
    received: list[int] = []
    before = {
        n: signal.signal(n, lambda number, _: received.append(number)) for n in stop_signals()
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reachable(hosts: Sequence[ListedHost]) -> tuple[list[ListedHost], str]:
    """Test all hosts by ssh at the same time: those that answer, and why the others do not."""

    def why_unreachable(host: ListedHost) -> str | None:
        return None if host.over_ssh is None else why_silent(host.over_ssh, SSH_SECONDS)

    with ThreadPoolExecutor(SSH_THREADS) as threads:
        found = list(zip(hosts, threads.map(why_unreachable, hosts), strict=True))
    silent = [f"{host.name} does not answer ({why})" for host, why in found if why is not None]
    return [host for host, why in found if why is None], "; ".join(silent)


def _identity(checkpoint: Path) -> tuple[str, int]:
    """Differs for a checkpoint that was saved again under the same name."""
    return checkpoint.name, checkpoint.stat().st_ino


def _report(failure: RankFailure) -> str:
    lines = [f"    {line}" for line in failure.last_lines.splitlines()]
    return "\n".join([failure.text, *lines])


def _print(text: str) -> None:
    print(f"yolo: {text}", file=sys.stderr, flush=True)
