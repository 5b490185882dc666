"""Where every rank stands, so that a collective that fails can name the ranks that are missing.

Each rank writes once a second what it is doing into the store through which the ranks met, over a connection of its own.
When a collective fails, whoever notices reads all of them twice: a rank whose entry has not moved is missing.

Not every collective that hangs fails: with NCCL the main thread waits for the device instead, and gloo has no limit for
sending, which a link that is cut in the middle of a large tensor holds up. So the thread that writes also looks whether
the main thread is stuck.
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

from yolo.communication.metering import meter
from yolo.errors import YoloError
from yolo.exit_codes import RANKS_LOST
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.resilience.fencing import FencingToken
from yolo.training.resilience.rank_status import MISSING, RankStatusFile

BEAT_SECONDS = 1.0
LISTEN_SECONDS = 2.2 * BEAT_SECONDS
"""Between two readings: who lives has written twice."""
ANSWER_SECONDS = 6.0
"""For both readings; the store's process may be stopped, or its host gone."""
LINGER_SECONDS = LISTEN_SECONDS + 0.3
"""The first rank's process holds the store: it stays until those who noticed at the same time have read."""
LEAVE_SECONDS = 5.0
"""From the error to the end of the process: what else has to be told may want the network that is gone."""
MOST_NAMED = 8
VERDICT = "standings/verdict"
PATIENCE_SECONDS = 1.5
"""On top of the time limit, for the collective to fail by itself."""
WAITING_FILES = (distributed_c10d.__file__, meter.__file__)
"""Where the main thread's innermost function lies while it is in a collective."""

COLLECTIVE_ERROR = re.compile(
    r"gloo|NCCL|ProcessGroup|TCPStore|Timed out waiting|Connection (closed|reset|refused)|Broken pipe|Socket Timeout"
)
"""In the text of a RuntimeError; torch has types for some of them only."""


class RanksLost(YoloError):
    """A collective failed because ranks are missing, or stand elsewhere."""

    exit_code = RANKS_LOST

    def __init__(self, text: str, is_said: bool) -> None:
        super().__init__(text)
        self.is_said = is_said
        """Whether another rank says the same."""


@dataclass(frozen=True, slots=True)
class RankPhase:
    """What a rank does. Times are seconds since all ranks began to keep their standings, so no clocks are compared."""

    what: str
    since: float
    heard: float


class HeartbeatMonitor:
    """This rank's place, for all to see, and a way to see theirs."""

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
        self._fence = FencingToken.of_this_process(run_path)
        self._timeout_seconds = timeout_seconds
        self._is_asynchronous = ranks.device.type != "cpu"
        self._began = time.monotonic()
        self._place: tuple[str, bool, float] = ("starting", False, self._began)
        self._seen: tuple[object, int] = (None, 0)
        self._seen_at = self._began
        self._is_hung = False
        self._lost: tuple[RanksLost, float] | None = None
        self._stopped = threading.Event()
        self._naming = threading.Lock()

    @classmethod
    def start(
        cls, ranks: DistributedContext, run_path: Path, timeout_seconds: float
    ) -> "HeartbeatMonitor":
        """Begin to keep them, on all ranks at once: this is a collective."""
        store = _connect()
        store.set(_key(ranks.rank), _line(RankPhase("starting", 0.0, 0.0)))
        hosts = [str(host) for host in all_gather_object(ranks, socket.gethostname())]
        standings = cls(ranks, hosts, run_path, timeout_seconds)
        threading.Thread(
            target=standings._keep, args=(store,), name="standings", daemon=True
        ).start()
        return standings

    def stop(self) -> None:
        """Stop before the ranks part, and the store with the first of them."""
        self._stopped.set()

    def set_phase(self, place: str, waits: bool = False) -> None:
        """This rank now does something else; `waits` where that is only to wait for other ranks. Takes a microsecond."""
        self._place = (place, waits, time.monotonic())

    def begin(self, part: str, step: int) -> None:
        """Set the phase as a part of a training step begins (`StepObserver`)."""
        if part == "forward":
            self.set_phase(f"computing step {step}")
        elif part == "update":
            self.set_phase(f"exchanging gradients of step {step}", waits=True)

    @contextmanager
    def attribute_failure(self) -> Iterator[None]:
        """Raises RanksLost, naming those that are missing, for the error of a collective; others pass."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not COLLECTIVE_ERROR.search(str(error)):
                raise
            raise self._name(error) from error

    def who_is_missing(self, error: BaseException) -> str:
        """One line to a few: what failed where, which ranks are silent since when, and who stands elsewhere.

        Takes up to ANSWER_SECONDS.
        """
        return self._ask(error)[0]

    def _name(self, error: BaseException) -> RanksLost:
        """Find out who is missing, once, and see to it that this process ends soon after."""
        with self._naming:
            if self._lost is None:
                text, is_said = self._ask(error)
                self._lost = RanksLost(text, is_said), time.monotonic()
                self._record.ends(RANKS_LOST, text)
                if self.rank == 0 and len(self.hosts) > 2:
                    time.sleep(LINGER_SECONDS)
        return self._lost[0]

    def _ask(self, error: BaseException) -> tuple[str, bool]:
        """The text, and whether another rank says it."""
        place, _, since = self._place
        what = (
            f"rank {self.rank} ({self.hosts[self.rank]}) was {place} when {_gist(error)} "
            f"after {time.monotonic() - since:.0f} s"
        )
        found: list[tuple[str, bool]] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError, OSError):
                found.append(self._read_and_judge(what))

        reader = threading.Thread(target=ask, name="standings reader", daemon=True)
        reader.start()
        reader.join(ANSWER_SECONDS)
        if found:
            return found[0]
        silent = "where the other ranks stand could not be read in time"
        if self.rank != 0:
            silent = (
                f"rank 0 ({self.hosts[0]}), where all ranks write where they stand, does not answer"
            )
        return f"{silent}; {what}", not self._speaks_for_host

    def _read_and_judge(self, what: str) -> tuple[str, bool]:
        store = _connect()
        if store.check([VERDICT]):
            return store.get(VERDICT).decode(), True
        before = self._read(store)
        time.sleep(LISTEN_SECONDS)
        now = self._read(store)
        others = [rank for rank in now if rank != self.rank]
        missing = [rank for rank in others if now[rank].heard == before[rank].heard]
        text = f"{self._judged(now, missing)}; {what}"
        verdict = store.compare_set(VERDICT, "", text).decode()
        return verdict, verdict != text

    def _read(self, store: TCPStore) -> dict[int, RankPhase]:
        lines = store.multi_get([_key(rank) for rank in range(len(self.hosts))])
        return {rank: RankPhase(**json.loads(line)) for rank, line in enumerate(lines)}

    def _judged(self, places: Mapping[int, RankPhase], missing: Sequence[int]) -> str:
        now = self._seconds()

        def told(rank: int) -> str:
            place = places[rank]
            name = f"rank {rank} ({self.hosts[rank]})"
            so_long = f"for {place.heard - place.since:.0f} s"
            if rank in missing:
                return f"{name}, silent for {now - place.heard:.0f} s, was {place.what} {so_long}"
            return f"{name} is {place.what} {so_long}"

        if missing:
            text = MISSING + "; ".join(told(rank) for rank in missing[:MOST_NAMED])
            return f"{text}; and {len(missing) - MOST_NAMED} more" if missing[MOST_NAMED:] else text
        mine = self._place[0]
        elsewhere = [rank for rank, place in places.items() if place.what != mine]
        if not elsewhere:
            return f"all {len(places)} ranks are alive, and all {mine}"
        groups = defaultdict(list)
        for rank in elsewhere:
            groups[places[rank].what].append(rank)
        first = [told(ranks[0]) + _and_more(len(ranks) - 1) for ranks in groups.values()]
        return "all ranks are alive, but some stand elsewhere: " + "; ".join(first[:MOST_NAMED])

    def _keep(self, store: TCPStore | None) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if self._fence.is_stale:
                self._end(
                    RanksLost(
                        "the run was started again; this rank of an earlier start ends", False
                    )
                )
            what, _, since = self._place
            self._record.stands(what, time.monotonic() - since)
            place = RankPhase(what[:200], since - self._began, self._seconds())
            try:
                store = store or _connect()
                store.set(_key(self.rank), _line(place))
            except (RuntimeError, OSError):
                store = None
            if not self._is_hung and self._has_hung():
                self._is_hung = True
                threading.Thread(target=self._end_hung, name="standings end", daemon=True).start()
            if self._lost and time.monotonic() - self._lost[1] > LEAVE_SECONDS:
                self._end(self._lost[0])

    def _has_hung(self) -> bool:
        """Whether the main thread has waited for other ranks for longer than allowed, at one place in one collective."""
        group: Any = distributed_c10d.GroupMember.WORLD
        if group is None:  # the ranks have parted
            return False
        seen = self._place, group._get_sequence_number_for_group()
        if seen != self._seen or not self._waits():
            self._seen, self._seen_at = seen, time.monotonic()
        return time.monotonic() - self._seen_at > self._timeout_seconds + PATIENCE_SECONDS

    def _waits(self) -> bool:
        if self._is_asynchronous and self._place[1]:
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
        if not lost.is_said:
            print(f"yolo: {lost}", file=sys.stderr, flush=True)
        os._exit(RANKS_LOST)

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _connect() -> TCPStore:
    """A connection of its own to the store of the process group: torch waits with its own for minutes.

    Raises OSError or RuntimeError where the store is gone.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Asked first, since torch would try for all that time and then print its own stack.
    socket.create_connection((address, port), timeout=ANSWER_SECONDS).close()
    return TCPStore(
        address,
        port,
        is_master=False,
        timeout=timedelta(seconds=ANSWER_SECONDS),
        wait_for_workers=False,
    )


def _key(rank: int) -> str:
    return f"standings/{rank}"


def _line(place: RankPhase) -> str:
    return json.dumps(asdict(place))


def _and_more(ranks: int) -> str:
    return f" (and {ranks} ranks more)" if ranks else ""


def _gist(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"Timed out waiting (\d+)\s*ms", text):
        return (
            f"a collective timed out at {int(found[1]) / 1000:g} s (communication.timeout_seconds)"
        )
    if re.search(r"Connection (closed|reset)|Broken pipe|pair closure", text):
        return "the connection to another rank was closed"
    return f"a collective failed: {text[:200]}"
