"""Fencing: of several starts of a run, only the newest may write.

A killed launcher leaves ranks behind on other hosts, and a host whose link was cut continues by itself. Each start has a
token, and the run's folder holds the newest one: a rank with an older token stops. Needs no torch.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

START = "start"
"""The file in a run's folder."""
VARIABLE = "YOLO_START"
"""Environment variable: the token of this process's start; unset if `yolo train` did not start the launcher."""


@dataclass(frozen=True, slots=True)
class FencingToken:
    """The token of one start; checked before a rank writes."""

    run: Path
    token: str

    @classmethod
    def of_this_process(cls, run: Path) -> "FencingToken":
        """The token in the environment."""
        return cls(run, os.environ.get(VARIABLE, ""))

    @property
    def is_stale(self) -> bool:
        """Whether the run was started again since; False while the folder cannot be read."""
        if not self.token:
            return False
        try:
            newest = (self.run / START).read_text(encoding="utf-8")
        except OSError:
            return False
        # A shared folder may still show an older token for a while.
        return _began(newest) > _began(self.token)


def _began(token: str) -> int:
    began = token.partition("-")[0]
    return int(began) if began.isdecimal() else 0


def issue_token(run: Path) -> str:
    """Make the next start the only one that may write; returns its token."""
    token = f"{time.time_ns()}-{os.getpid()}"
    run.mkdir(parents=True, exist_ok=True)
    temporary = run / f".{START}.part"
    temporary.write_text(token, encoding="utf-8")
    temporary.replace(run / START)
    return token
