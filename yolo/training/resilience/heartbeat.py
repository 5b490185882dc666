"""Heartbeats of all ranks, so that a failed collective can name the missing ranks.

Each rank writes its phase once per second into the process group's store, over a connection of its own. When a collective
fails, each rank that notices reads all entries twice: a rank whose entry has not changed is missing.

Not every hanging collective fails: with NCCL the main thread waits for the device instead, and gloo has no time limit for
sending, which a link cut in the middle of a large tensor blocks. So the heartbeat thread also checks whether the main
thread is stuck.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed import distributed_c10d

from yolo.communication import backends
from yolo.communication.metering import meter
from yolo.errors import YoloError
from yolo.exit_codes import RANKS_LOST
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.engine.rendezvous import connect
from yolo.training.resilience.fencing import FencingToken
from yolo.training.resilience.rank_status import MISSING, RankStatusFile

BEAT_SECONDS = 1.0
LISTEN_SECONDS = 2.2 * BEAT_SECONDS
"""Between two readings: a live rank has written twice."""
ANSWER_SECONDS = 6.0
"""Time limit of both readings; the store's process may be stopped, or its host gone."""
LINGER_SECONDS = LISTEN_SECONDS + 0.3
"""Rank 0's process holds the store: it stays until the ranks that noticed at the same time have read."""
LEAVE_SECONDS = 5.0
"""From the error to the end of the process: other clean-up may need the lost network."""
MOST_NAMED = 8
VERDICT = "heartbeat/verdict"
PATIENCE_SECONDS = 1.5
"""Added to the time limit, for the collective to fail by itself."""
WAITING_FILES = (
    *(distributed_c10d.__file__, meter.__file__),
    str(Path(backends.__file__).with_name("mpi_progress.py")),  # not imported: there may be no MPI
)
"""Files of the main thread's innermost function during a collective."""

COLLECTIVE_ERROR = re.compile(
    r"gloo|NCCL|ProcessGroup|TCPStore|Timed out waiting|Connection (closed|reset|refused)|Broken pipe|Socket Timeout"
)
"""In the text of a RuntimeError; torch has types for only some of these errors."""


class RanksLost(YoloError):
    """A collective failed because ranks are missing, or in another phase."""

    exit_code = RANKS_LOST

    def __init__(self, text: str, is_reported: bool) -> None:
        super().__init__(text)
        self.is_reported = is_reported
        """Whether another rank reports the same."""


@dataclass(frozen=True, slots=True)
class RankPhase:
    """What a rank does. Times are seconds since all ranks started their heartbeats, so that no clocks are compared."""

    what: str
    since: float
    heard: float


class HeartbeatMonitor:
    """Publishes this rank's phase, and reads those of the others."""

    def __init__(
        self,
        ranks: DistributedContext,
        hosts: Sequence[str],
        run_path: Path,
        timeout_seconds: float,
    ) -> None:
        self.rank = ranks.rank
        self.hosts = hosts
        """By rank."""
        self._speaks_for_host = ranks.local_rank == 0
        self._record = RankStatusFile.of_this_process(run_path)
        self._token = FencingToken.of_this_process(run_path)
        self._timeout_seconds = timeout_seconds
        self._is_asynchronous = ranks.device.type != "cpu"
        self._began = time.monotonic()
        self._phase: tuple[str, bool, float] = ("starting", False, self._began)
        self._seen: tuple[object, int] = (None, 0)
        self._seen_at = self._began
        self._is_hung = False
        self._lost: tuple[RanksLost, float] | None = None
        self._stopped = threading.Event()
        self._failure_lock = threading.Lock()

    @classmethod
    def start(
        cls, ranks: DistributedContext, run_path: Path, timeout_seconds: float
    ) -> "HeartbeatMonitor":
        """Start the heartbeats of all ranks; collective."""
        store = _connect(FencingToken.of_this_process(run_path))
        store.set(_key(ranks.rank), _line(RankPhase("starting", 0.0, 0.0)))
        hosts = [str(host) for host in all_gather_object(ranks, socket.gethostname())]
        monitor = cls(ranks, hosts, run_path, timeout_seconds)
        threading.Thread(target=monitor._beat, args=(store,), name="heartbeat", daemon=True).start()
        return monitor

    def stop(self) -> None:
        """Stop, before the process group is destroyed, and the store with it."""
        self._stopped.set()

    def set_phase(self, phase: str, waits: bool = False) -> None:
        """Set what this rank does now; `waits`: it only waits for other ranks. Takes a microsecond."""
        self._phase = (phase, waits, time.monotonic())

    def begin(self, part: str, step: int) -> None:
        """Set the phase as a part of a training step begins (`StepObserver`)."""
        if part == "forward":
            self.set_phase(f"computing step {step}")
        elif part == "update":
            self.set_phase(f"exchanging gradients of step {step}", waits=True)

    @contextmanager
    def attribute_failure(self) -> Iterator[None]:
        """Raise RanksLost, naming the missing ranks, instead of a collective's error; other errors pass."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not COLLECTIVE_ERROR.search(str(error)):
                raise
            raise self._name(error) from error

    def _name(self, error: BaseException) -> RanksLost:
        """Find the missing ranks, once, and end this process soon after."""
        with self._failure_lock:
            if self._lost is None:
                text, is_reported = self._ask(error)
                self._lost = RanksLost(text, is_reported), time.monotonic()
                self._record.write_exit(RANKS_LOST, text)
                if self.rank == 0 and len(self.hosts) > 2:
                    time.sleep(LINGER_SECONDS)
        return self._lost[0]

    def _ask(self, error: BaseException) -> tuple[str, bool]:
        """What failed, which ranks are silent since when or in another phase, and whether another rank reports it.

        Takes up to ANSWER_SECONDS.
        """
        phase, _, since = self._phase
        what = (
            f"rank {self.rank} ({self.hosts[self.rank]}) was {phase} when {_gist(error)} "
            f"after {time.monotonic() - since:.0f} s"
        )
        found: list[tuple[str, bool]] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError, OSError):
                found.append(self._read_and_describe(what))

        reader = threading.Thread(target=ask, name="heartbeat reader", daemon=True)
        reader.start()
        reader.join(ANSWER_SECONDS)
        if found:
            return found[0]
        silent = "the phases of the other ranks could not be read in time"
        if self.rank != 0:
            silent = f"rank 0 ({self.hosts[0]}), which holds the heartbeats of all ranks, does not answer"
        return f"{silent}; {what}", not self._speaks_for_host

    def _read_and_describe(self, what: str) -> tuple[str, bool]:
        store = _connect(self._token)
        if store.check([VERDICT]):
            return store.get(VERDICT).decode(), True
        before = self._read(store)
        time.sleep(LISTEN_SECONDS)
        now = self._read(store)
        others = [rank for rank in now if rank != self.rank]
        missing = [rank for rank in others if now[rank].heard == before[rank].heard]
        text = f"{self._describe(now, missing)}; {what}"
        verdict = store.compare_set(VERDICT, "", text).decode()
        return verdict, verdict != text

    def _read(self, store: TCPStore) -> dict[int, RankPhase]:
        lines = store.multi_get([_key(rank) for rank in range(len(self.hosts))])
        return {rank: RankPhase(**json.loads(line)) for rank, line in enumerate(lines)}

    def _describe(self, phases: Mapping[int, RankPhase], missing: Sequence[int]) -> str:
        now = self._seconds()

        def described(rank: int) -> str:
            phase = phases[rank]
            name = f"rank {rank} ({self.hosts[rank]})"
            duration = f"for {phase.heard - phase.since:.0f} s"
            if rank in missing:
                return f"{name}, silent for {now - phase.heard:.0f} s, was {phase.what} {duration}"
            return f"{name} is {phase.what} {duration}"

        if missing:
            text = MISSING + "; ".join(described(rank) for rank in missing[:MOST_NAMED])
            return f"{text}; and {len(missing) - MOST_NAMED} more" if missing[MOST_NAMED:] else text
        mine = self._phase[0]
        elsewhere = [rank for rank, phase in phases.items() if phase.what != mine]
        if not elsewhere:
            return f"all {len(phases)} ranks are alive, and all {mine}"
        groups = defaultdict(list)
        for rank in elsewhere:
            groups[phases[rank].what].append(rank)
        first = [
            described(rank) + (f" (and {len(others)} ranks more)" if others else "")
            for rank, *others in groups.values()
        ]
        named = "; ".join(first[:MOST_NAMED])
        return f"all ranks are alive, but some are in another phase: {named}"

    def _beat(self, store: TCPStore | None) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if self._token.is_stale:
                self._end(
                    RanksLost(
                        "the run was started again; this rank belongs to an earlier start and ends",
                        False,
                    )
                )
            what, _, since = self._phase
            self._record.write_phase(what, time.monotonic() - since)
            phase = RankPhase(what[:200], since - self._began, self._seconds())
            try:
                store = store or _connect(self._token)
                store.set(_key(self.rank), _line(phase))
            except (RuntimeError, OSError):
                store = None
            if not self._is_hung and self._has_hung():
                self._is_hung = True
                threading.Thread(target=self._end_hung, name="heartbeat end", daemon=True).start()
            if self._lost and time.monotonic() - self._lost[1] > LEAVE_SECONDS:
                self._end(self._lost[0])

    def _has_hung(self) -> bool:
        """Whether the main thread has waited longer than allowed, in one phase and one collective."""
        group: Any = distributed_c10d.GroupMember.WORLD
        if group is None:  # the process group is destroyed
            return False
        seen = self._phase, group._get_sequence_number_for_group()
        if seen != self._seen or not self._waits():
            self._seen, self._seen_at = seen, time.monotonic()
        return time.monotonic() - self._seen_at > self._timeout_seconds + PATIENCE_SECONDS

    def _waits(self) -> bool:
        if self._is_asynchronous and self._phase[1]:
            return True
        main = threading.main_thread().ident
        assert main is not None
        return sys._current_frames()[main].f_code.co_filename in WAITING_FILES

    def _end_hung(self) -> None:
        seconds = time.monotonic() - self._seen_at
        error = TimeoutError(
            f"not finished after {seconds:.0f} s (communication.timeout_seconds {self._timeout_seconds:g})"
        )
        self._end(self._name(error))

    def _end(self, lost: RanksLost) -> None:
        if not lost.is_reported:
            print(f"yolo: {lost}", file=sys.stderr, flush=True)
        os._exit(RANKS_LOST)

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _connect(token: FencingToken) -> TCPStore:
    """A separate connection to the process group's store: torch waits on its own for minutes."""
    return connect(token.token, timedelta(seconds=ANSWER_SECONDS))


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"


def _line(phase: RankPhase) -> str:
    return json.dumps(asdict(phase))


def _gist(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"Timed out waiting (\d+)\s*ms", text):
        return (
            f"a collective timed out at {int(found[1]) / 1000:g} s (communication.timeout_seconds)"
        )
    if re.search(r"Connection (closed|reset)|Broken pipe|pair closure", text):
        return "the connection to another rank was closed"
    return f"a collective failed: {text[:200]}"
