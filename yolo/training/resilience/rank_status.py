"""What each rank leaves in the run's folder for `yolo train` to read: where it stands, and how it ended. Needs no torch.

The launcher hands on one exit code and no more. A rank that is killed says nothing, so what it last wrote must do.
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
"""A record is one write of this size over the one before it, so that a reader never sees a part."""
WORDS_LINES = 12
MISSING = "missing: "
"""How the words of a rank begin that lost others and knows whom."""
CRASHED = "Fatal Python error"
"""How Python's faulthandler begins, whose first lines tell more than its last."""


@dataclass(frozen=True, slots=True)
class RankHeartbeat:
    """Where a rank stood when it was last heard of."""

    host: str
    pid: int
    place: str
    since: float
    """Seconds since 1970, by the host's own clock."""
    heard: float
    """Likewise."""


@dataclass(frozen=True, slots=True)
class RankExit:
    """How a rank ended that could still say so."""

    code: int
    at: float
    """Seconds since 1970, by the host's own clock."""
    words: str


@dataclass(frozen=True, slots=True)
class RankStatusFile:
    """The files of one rank in one start of the launcher."""

    run: Path
    port: int
    """Where the ranks of this start meet. On a host that was cut off, ranks of the start before may still be writing."""
    rank: int

    @classmethod
    def of_this_process(cls, run: Path) -> "RankStatusFile":
        """As the launcher's environment has it."""
        return cls(run, int(os.environ["MASTER_PORT"]), int(os.environ["RANK"]))

    @property
    def folder(self) -> Path:
        """That of all ranks' files."""
        return self.run / RANKS / str(self.port)

    @property
    def fault(self) -> Path:
        """Where Python's faulthandler writes when the process crashes."""
        return self._file("fault")

    def stands(self, place: str, seconds: float = 0.0) -> None:
        """Write down where this rank is since so many seconds. A disk that is full or gone is no reason to stop."""
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
        """Write down this rank's exit code and last words, the first time that it is called."""
        line = json.dumps(asdict(RankExit(code, time.time(), words)))
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file("end").open("x", encoding="utf-8") as file:
                file.write(line)

    @property
    def standing(self) -> RankHeartbeat | None:
        """What it last wrote; None where it never came so far."""
        try:
            return RankHeartbeat(**json.loads(self._file("place").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def ending(self) -> RankExit | None:
        """None where it runs, or ended without a word."""
        try:
            return RankExit(**json.loads(self._file("end").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def words(self) -> str:
        """Its last lines: of a crash in C++ the first, which name it."""
        with contextlib.suppress(OSError):
            crash = self.fault.read_text(encoding="utf-8", errors="replace").strip()
            if crash.startswith(CRASHED):
                return "\n".join(crash.splitlines()[:WORDS_LINES])
        ending = self.ending
        return "\n".join(ending.words.splitlines()[-WORDS_LINES:]) if ending else ""

    def _file(self, suffix: str) -> Path:
        return self.folder / f"rank-{self.rank:05d}.{suffix}"


def records_of(run: Path, port: int) -> list[RankStatusFile]:
    """Those of all ranks that have written anything, in their order."""
    ranks = {int(path.stem[5:]) for path in (run / RANKS / str(port)).glob("rank-?????.*")}
    return [RankStatusFile(run, port, rank) for rank in sorted(ranks)]
