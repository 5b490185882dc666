"""Status files of each rank in the run's folder, read by `yolo train`: current phase, and exit. Needs no torch.

The launcher returns a single exit code. A killed rank cannot report anything. If it has no parent of
its own (`yolo.launch.rank`), its last status must do.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANKS = "ranks"
LINE_BYTES = 512
"""A status is one write of this size over the one before, so that a reader never sees a part of it."""
LAST_LINES = 12
MISSING = "missing: "
"""Start of the error of a rank that lost other ranks and knows which."""
CRASHED = "Fatal Python error"
"""Start of the output of Python's faulthandler; its first lines matter most."""


@dataclass(frozen=True, slots=True)
class RankHeartbeat:
    """The last known phase of a rank."""

    host: str
    pid: int
    phase: str
    """`place` in its file."""
    since: float
    """Seconds since 1970, by the host's own clock."""
    heard: float
    """Likewise."""


@dataclass(frozen=True, slots=True)
class RankExit:
    """How a rank ended, if it or its parent could still write it."""

    code: int
    """-N after signal N."""
    at: float
    """Seconds since 1970, by the host's own clock."""
    message: str
    """Its error; `words` in its file."""


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

    def write_phase(self, phase: str, seconds: float = 0.0) -> None:
        """Write the phase in which this rank has been for `seconds`. A full or missing disk is no reason to stop."""
        now = time.time()
        status = {"host": socket.gethostname(), "pid": os.getpid(), "place": phase[:200]}
        status |= {"since": now - seconds, "heard": now}
        line = json.dumps(status).encode()[:LINE_BYTES].ljust(LINE_BYTES)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._file("place"), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, line, 0)
            finally:
                os.close(file)

    def write_exit(self, code: int, message: str = "") -> None:
        """Write this rank's exit code and error, at the first call only."""
        line = json.dumps({"code": code, "at": time.time(), "words": message})
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file("end").open("x", encoding="utf-8") as file:
                file.write(line)

    @property
    def heartbeat(self) -> RankHeartbeat | None:
        """The last phase written; None if there is none."""
        try:
            return RankHeartbeat(**self._read("place", place="phase"))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def exit(self) -> RankExit | None:
        """The exit; None if the rank runs, or ended without writing one."""
        try:
            return RankExit(**self._read("end", words="message"))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def last_lines(self) -> str:
        """The last lines of its error; of a crash in C++ the first ones, which name it."""
        with contextlib.suppress(OSError):
            crash = self.fault.read_text(encoding="utf-8", errors="replace").strip()
            if crash.startswith(CRASHED):
                return "\n".join(crash.splitlines()[:LAST_LINES])
        end = self.exit
        return "\n".join(end.message.splitlines()[-LAST_LINES:]) if end else ""

    def _read(self, suffix: str, **renamed: str) -> dict[str, Any]:
        """The values of a file by field; `renamed` maps the file's keys to fields of another name."""
        content: dict[str, Any] = dict(json.loads(self._file(suffix).read_bytes()))
        return {renamed.get(key, key): value for key, value in content.items()}

    def _file(self, suffix: str) -> Path:
        return self.folder / f"rank-{self.rank:05d}.{suffix}"


def records_of(run: Path, port: int) -> list[RankStatusFile]:
    """The status files of all ranks that have written any, by rank."""
    ranks = {int(path.stem[5:]) for path in (run / RANKS / str(port)).glob("rank-?????.*")}
    return [RankStatusFile(run, port, rank) for rank in sorted(ranks)]
