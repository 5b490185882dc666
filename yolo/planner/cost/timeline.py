"""A training step as a line of time: computing, collectives under way, and the waiting that computing does not hide."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from yolo.planner.cost.collectives import Cost

SMALLEST_STEP = 1e-12


@dataclass(frozen=True, slots=True)
class Compute:
    """A rank works for so long, when nothing is under way."""

    seconds: float
    part: str
    """forward, backward, codec or update."""


@dataclass(frozen=True, slots=True)
class CommEvent:
    """A collective begins; `is_waited` where the rank does nothing until it ends."""

    kind: str
    payload_bytes: float
    is_waited: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """The rank waits for all that is under way."""


Event = Compute | CommEvent | Wait


@dataclass(slots=True)
class StepTime:
    """Where the seconds of a step go."""

    seconds: float = 0.0
    computing: dict[str, float] = field(default_factory=dict)
    """By part, as long as it takes when nothing is under way."""

    @property
    def exposed_seconds(self) -> float:
        """What communication adds: waiting, and computing that goes slower beside it."""
        return self.seconds - sum(self.computing.values())


class Timeline:
    """Plays events; collectives take their turns on one network.

    slowdown: how much longer computing takes beside a collective on a GPU. Where a collective keeps a share of the core
    that computes busy, it takes that share from it, but never more than half: the two are equal before the scheduler.
    """

    def __init__(self, slowdown: float) -> None:
        self._slowdown = slowdown
        self._under_way: list[Cost] = []
        self._left = 0.0
        self.time = StepTime()

    def play(self, events: Iterable[tuple[Event, Cost]]) -> StepTime:
        """All events in order; an exchange comes with its cost, the others with none."""
        for event, cost in events:
            match event:
                case Compute():
                    self._compute(event)
                case CommEvent():
                    self._begin(cost)
                    if event.is_waited:
                        self._drain()
                case Wait():
                    self._drain()
        self._drain()
        return self.time

    def _begin(self, cost: Cost) -> None:
        if cost.seconds > 0:
            if self._under_way:
                cost = replace(cost, seconds=cost.seconds - cost.spared_behind)
            else:
                self._left = cost.seconds
            self._under_way.append(cost)

    def _compute(self, event: Compute) -> None:
        parts = self.time.computing
        parts[event.part] = parts.get(event.part, 0.0) + event.seconds
        left = event.seconds
        while left > SMALLEST_STEP and self._under_way:
            share = self._under_way[0].core_share
            computing = min(1 / (1 + self._slowdown), 1 - min(share, 0.5))
            sending = min(1.0, 0.5 / share) if share else 1.0
            seconds = min(left / computing, self._left / sending)
            self.time.seconds += seconds
            left -= seconds * computing
            self._advance(seconds * sending)
        self.time.seconds += max(left, 0.0)

    def _drain(self) -> None:
        while self._under_way:
            self.time.seconds += self._left
            self._advance(self._left)

    def _advance(self, seconds: float) -> None:
        self._left -= seconds
        if self._left <= SMALLEST_STEP:
            self._under_way.pop(0)
            self._left = self._under_way[0].seconds if self._under_way else 0.0
