"""Find the rank that failed first, and why, from the ranks' status files and the launcher's exit code.

A rank that ends by itself writes that down. A killed rank wrote its last heartbeat at most a second before, which is
before the other ranks notice. So the rank with the oldest last message failed first. Needs no torch.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from yolo.exit_codes import RANKS_LOST
from yolo.training.resilience.rank_status import MISSING, RankExit, RankHeartbeat, RankStatusFile

STARTING = "starting"


@dataclass(frozen=True, slots=True)
class RankFailure:
    """How a start ended."""

    text: str
    last_lines: str = ""
    """The last lines of the rank that failed first; empty if it wrote none."""
    code: int | None = None
    """Its exit code; None if it was killed or if the code is unknown."""


def first_failure(
    records: Sequence[RankStatusFile], launcher_code: int, was_stopped: bool
) -> RankFailure:
    """Evaluate the records of one start after all its ranks have ended.

    `launcher_code` is 256 - N if the launcher saw a rank killed by signal N, -N if it was itself; `was_stopped` means that ranks without
    progress had to be ended.
    """
    ranks = [_RankEnd(record, record.heartbeat, record.exit) for record in records]
    if not ranks:
        return RankFailure(
            f"the launcher ended with exit code {launcher_code} before any rank began"
        )
    first = min(ranks, key=lambda rank: (rank.is_unclear, rank.last_message_at))
    code = first.exit.code if first.exit and first.exit.code >= 0 else None
    lost = [rank.exit.message for rank in ranks if rank.exit and rank.exit.code == RANKS_LOST]
    # If a link was cut, both sides miss the other. Only the side of the first rank could ask all its own ranks.
    lost.sort(key=lambda text: not text.startswith(MISSING))
    if code == RANKS_LOST:
        return RankFailure(f"ranks were lost: {lost[0]}", code=code)
    # DeepSpeed's launcher returns 0 if its helper was killed; mpiexec is killed itself.
    was_killed = launcher_code <= 0 and not was_stopped
    if len(ranks) > 1 and was_killed and all(rank.exit is None for rank in ranks):
        text = (
            f"all {len(ranks)} ranks ended with their launcher, which was killed (out of memory?),"
        )
    else:
        host = f" ({first.heartbeat.host})" if first.heartbeat else ""
        reason = first.reason(launcher_code, was_stopped)
        text = f"rank {first.record.rank}{host} died first: {reason}"
    text += f" while {first.phase}"
    if lost and (was_stopped or first.is_unclear):
        text += f"; {lost[0]}"
    return RankFailure(text, first.record.last_lines, code)


@dataclass(frozen=True, slots=True)
class _RankEnd:
    record: RankStatusFile
    heartbeat: RankHeartbeat | None
    exit: RankExit | None

    @property
    def phase(self) -> str:
        return self.heartbeat.phase if self.heartbeat else STARTING

    @property
    def last_message_at(self) -> float:
        if self.exit is not None:
            return self.exit.at
        return self.heartbeat.heard if self.heartbeat else 0.0

    @property
    def is_unclear(self) -> bool:
        """A starting rank writes nothing, and does not fail by itself when the launcher ends it."""
        if self.exit is not None:
            return self.exit.code in (128 + signal.SIGTERM, -signal.SIGTERM)
        return self.phase == STARTING

    def reason(self, launcher_code: int, was_stopped: bool) -> str:
        if self.exit is not None and self.exit.code >= 0:
            return f"it ended with exit code {self.exit.code}"
        if self.exit is None and was_stopped:
            return "it fell silent"
        number = 256 - launcher_code if self.exit is None else -self.exit.code
        try:
            return f"it was killed by {signal.Signals(number).name}"
        except ValueError:
            return "it ended without a message"
