"""Status files of each rank in the run's folder, read by `yolo train`: current phase, and exit. Needs no torch.

The launcher returns a single exit code. A killed rank cannot report anything, so its last status must do.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RANKS = "ranks"
LINE_BYTES = 512
"""A status is one write of this size over the one before, so that a reader never sees a part of it."""
WORDS_LINES = 12
MISSING = "missing: "
"""Start of the error of a rank that lost other ranks and knows which."""
CRASHED = "Fatal Python error"
"""Start of the output of Python's faulthandler; its first lines matter most."""


@dataclass(frozen=True, slots=True)
class RankHeartbeat:
    """The last known phase of a rank."""

    host: str
    pid: int
    place: str
    since: float
    """Seconds since 1970, by the host's own clock."""
    heard: float
    """Likewise."""


@dataclass(frozen=True, slots=True)
class RankExit:
    """How a rank ended, if it could still write it."""

    code: int
    at: float
    """Seconds since 1970, by the host's own clock."""
    words: str


@dataclass(frozen=True, slots=True)
class RankStatusFile:
    """The status files of one rank, in one start of the launcher."""

    run: Path
    port: int
    """MASTER_PORT of this start. On a host that was cut off, ranks of an earlier start may still be writing."""
    rank: int

    @classmethod
    def of_this_process(cls, run: Path) -> "RankStatusFile":
        """From the launcher's environment."""
        return cls(run, int(os.environ["MASTER_PORT"]), int(os.environ["RANK"]))

    @property
    def folder(self) -> Path:
        """The folder of all ranks' files."""
        return self.run / RANKS / str(self.port)

    @property
    def fault(self) -> Path:
        """Output of Python's faulthandler, if the process crashes."""
        return self._file("fault")

    def stands(self, place: str, seconds: float = 0.0) -> None:
        """Write the phase in which this rank has been for `seconds`. A full or missing disk is no reason to stop."""
        now = time.time()
        standing = RankHeartbeat(socket.gethostname(), os.getpid(), place[:200], now - seconds, now)
        line = json.dumps(asdict(standing)).encode()[:LINE_BYTES].ljust(LINE_BYTES)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._file("place"), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, line, 0)
            finally:
                os.close(file)

    def ends(self, code: int, words: str = "") -> None:
        """Write this rank's exit code and error, at the first call only."""
        line = json.dumps(asdict(RankExit(code, time.time(), words)))
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file("end").open("x", encoding="utf-8") as file:
                file.write(line)

    @property
    def standing(self) -> RankHeartbeat | None:
        """The last phase written; None if there is none."""
        try:
            return RankHeartbeat(**json.loads(self._file("place").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def ending(self) -> RankExit | None:
        """The exit; None if the rank runs, or ended without writing one."""
        try:
            return RankExit(**json.loads(self._file("end").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def words(self) -> str:
        """The last lines of its error; of a crash in C++ the first ones, which name it."""
        with contextlib.suppress(OSError):
            crash = self.fault.read_text(encoding="utf-8", errors="replace").strip()
            if crash.startswith(CRASHED):
                return "\n".join(crash.splitlines()[:WORDS_LINES])
        ending = self.ending
        return "\n".join(ending.words.splitlines()[-WORDS_LINES:]) if ending else ""

    def _file(self, suffix: str) -> Path:
        return self.folder / f"rank-{self.rank:05d}.{suffix}"


def records_of(run: Path, port: int) -> list[RankStatusFile]:
    """The status files of all ranks that have written any, by rank."""
    ranks = {int(path.stem[5:]) for path in (run / RANKS / str(port)).glob("rank-?????.*")}
    return [RankStatusFile(run, port, rank) for rank in sorted(ranks)]
