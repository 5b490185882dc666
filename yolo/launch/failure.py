"""Which rank died first, of what, and with which last words: from what ranks left behind and the launcher's exit code.

A rank that ends by itself says so; one that is killed was last heard of a second before at most, which is before the
others notice. So whoever was last heard of first, died first. Needs no torch.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from yolo.exit_codes import LEFT, RANKS_LOST, REFUSED
from yolo.training.resilience.rank_status import MISSING, RankExit, RankHeartbeat, RankStatusFile

STARTING = "starting"


@dataclass(frozen=True, slots=True)
class RankFailure:
    """How a start ended."""

    text: str
    words: str
    """The last lines of the rank that died first; empty where it could say nothing."""
    code: int | None
    """Its exit code; None where it was killed or is not known."""


def first_failure(
    records: Sequence[RankStatusFile], launcher_code: int, was_stopped: bool
) -> RankFailure:
    """Of the records of one start, after all its ranks have ended.

    `launcher_code` is 256 - N where the launcher saw a rank killed by signal N; `was_stopped` says that ranks had to be
    ended that did nothing any more.
    """
    seen = [_Seen.of(record) for record in records]
    if not seen:
        return RankFailure(
            f"the launcher ended with exit code {launcher_code} before any rank began", "", None
        )
    first = min(seen, key=lambda rank: (rank.is_unclear, rank.last))
    words, code = first.record.words, first.ending.code if first.ending else None
    lost = [rank.ending.words for rank in seen if rank.ending and rank.ending.code == RANKS_LOST]
    # Both sides of a link that was cut miss the other; that of the first rank could ask all of its own.
    lost.sort(key=lambda text: not text.startswith(MISSING))
    if code == RANKS_LOST:
        return RankFailure(f"ranks were lost: {lost[0]}", "", code)
    if len(seen) > 1 and launcher_code == 0 and all(rank.ending is None for rank in seen):
        how = "which was killed (out of memory?)"
        return RankFailure(
            f"all {len(seen)} ranks ended with their launcher, {how}, while {first.place}",
            words,
            code,
        )
    text = f"{first.name} died first: {first.how(launcher_code, was_stopped)} while {first.place}"
    if lost and (was_stopped or first.is_unclear):
        text += f"; {lost[0]}"
    return RankFailure(text, words, code)


def was_refused(records: Sequence[RankStatusFile]) -> bool:
    """Whether a rank ended with something that the user has to put right."""
    return REFUSED in _codes(records)


def has_left(records: Sequence[RankStatusFile]) -> bool:
    """Whether the ranks left in order."""
    return LEFT in _codes(records)


def _codes(records: Sequence[RankStatusFile]) -> set[int]:
    return {record.ending.code for record in records if record.ending is not None}


@dataclass(frozen=True, slots=True)
class _Seen:
    record: RankStatusFile
    standing: RankHeartbeat | None
    ending: RankExit | None

    @classmethod
    def of(cls, record: RankStatusFile) -> "_Seen":
        return cls(record, record.standing, record.ending)

    @property
    def name(self) -> str:
        return f"rank {self.record.rank}" + (f" ({self.standing.host})" if self.standing else "")

    @property
    def place(self) -> str:
        return self.standing.place if self.standing else STARTING

    @property
    def last(self) -> float:
        """When it was last heard of."""
        if self.ending is not None:
            return self.ending.at
        return self.standing.heard if self.standing else 0.0

    @property
    def is_unclear(self) -> bool:
        """Nothing is written while a rank starts, nor does it then die of itself when the launcher ends it."""
        asked_to_end = self.ending is not None and self.ending.code == 128 + signal.SIGTERM
        return asked_to_end or (self.ending is None and self.place == STARTING)

    def how(self, launcher_code: int, was_stopped: bool) -> str:
        if self.ending is not None:
            return f"it ended with exit code {self.ending.code}"
        if was_stopped:
            return "it fell silent"
        try:
            return f"it was killed by {signal.Signals(256 - launcher_code).name}"
        except ValueError:
            return "it ended without a word"
