"""One start of a run at a time: ranks of an earlier one, which nobody could reach to end them, may not write any more.

A launcher that is killed leaves ranks on other hosts behind, and a host whose link was cut goes on by itself. Each start
has a token, and the run's folder holds the newest one's: who has another stops. Needs no torch.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

START = "start"
"""The file in a run's folder."""
VARIABLE = "YOLO_START"
"""The token of the start that this process belongs to; none where the launcher was not started by `yolo train`."""


@dataclass(frozen=True, slots=True)
class FencingToken:
    """What a rank asks before it writes."""

    run: Path
    token: str

    @classmethod
    def of_this_process(cls, run: Path) -> "FencingToken":
        """As `yolo.train` was told."""
        return cls(run, os.environ.get(VARIABLE, ""))

    @property
    def is_stale(self) -> bool:
        """Whether the run was started again since. A folder that cannot be read for the moment closes nothing."""
        if not self.token:
            return False
        try:
            newest = (self.run / START).read_text(encoding="utf-8")
        except OSError:
            return False
        # On a shared folder an older one may still be seen for a while.
        return _began(newest) > _began(self.token)


def _began(token: str) -> int:
    began = token.partition("-")[0]
    return int(began) if began.isdecimal() else 0


def issue_token(run: Path) -> str:
    """Make a run's next start its only one; returns the token."""
    token = f"{time.time_ns()}-{os.getpid()}"
    run.mkdir(parents=True, exist_ok=True)
    temporary = run / f".{START}.part"
    temporary.write_text(token, encoding="utf-8")
    temporary.replace(run / START)
    return token
