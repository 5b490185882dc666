"""A bad input, what may become of it, and the count of what did."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.fuzz.attempt import MEGABYTES, SECONDS, Ended

LONGEST = 1500
"""Characters of a line that somebody still reads."""
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class Verdict(StrEnum):
    """What became of an input."""

    REFUSED = "refused"
    QUARANTINED = "quarantined"
    HARMLESS = "harmless"
    FAILED = "failed"


Oracle = Callable[[Ended], Verdict]
"""Says of a command that ended well what that was. AssertionError where something was lost or altered unseen."""


def unexpected(ended: Ended) -> Verdict:
    """The oracle of what can only be refused."""
    raise AssertionError("it was accepted")


@dataclass(frozen=True, slots=True)
class Case:
    """One input."""

    name: str
    arguments: Sequence[str]
    names: str
    """What a refusal has to name: a file, or an override."""
    oracle: Oracle = unexpected


@dataclass(slots=True)
class Tally:
    """Verdicts of one kind of input."""

    kind: str
    counts: Counter[Verdict] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, case: Case, ended: Ended) -> None:
        """Judge and count."""
        try:
            verdict = judge(case, ended)
        except AssertionError as error:
            verdict = Verdict.FAILED
            self.failures.append(f"{self.kind}: {case.name}: {error}")
        self.counts[verdict] += 1

    @property
    def inputs(self) -> int:
        """All of them."""
        return self.counts.total()

    @property
    def stopped(self) -> int:
        """Refused or quarantined."""
        return self.counts[Verdict.REFUSED] + self.counts[Verdict.QUARANTINED]

    def row(self) -> str:
        """For the table."""
        figures = "".join(f"{self.counts[verdict]:13}" for verdict in Verdict)
        return f"{self.kind:18}{self.inputs:8}{figures}"


HEADING = f"{'kind':18}{'inputs':>8}" + "".join(f"{verdict:>13}" for verdict in Verdict)


def judge(case: Case, ended: Ended) -> Verdict:
    """What became of an input; AssertionError with what is wrong."""
    assert not ended.trace, ended.trace[-1500:]
    assert not ended.trespasses, ended.trespasses
    assert ended.megabytes < MEGABYTES, f"grew by {ended.megabytes:.0f} MB"
    assert ended.seconds < SECONDS, f"took {ended.seconds:.1f} seconds"
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said, said[-1500:]
    assert not CONTROL.search(said), f"control characters in {said[-300:]!r}"
    if ended.code == 0:
        return case.oracle(ended)
    assert ended.code == 2, f"ended with {ended.code}: {said[-500:]}"
    lines = ended.stderr.splitlines()
    assert lines, "refused without a word"
    assert case.names in ended.stderr, f"does not name {case.names}: {ended.stderr[-300:]}"
    longest = max(lines, key=len)
    assert len(longest) <= LONGEST, f"a line of {len(longest)} characters: {longest[:200]}"
    return Verdict.REFUSED
