"""Timeline of a training step: computing, collectives under way, and the waiting that computing does not hide."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from yolo.planner.cost.collectives import Cost

SMALLEST_STEP = 1e-12


@dataclass(frozen=True, slots=True)
class Compute:
    """A rank computes; `seconds` as if no collective is under way."""

    seconds: float
    part: str
    """forward, backward, codec or update."""


@dataclass(frozen=True, slots=True)
class CommEvent:
    """A collective begins; if `is_waited`, the rank does nothing until it ends."""

    kind: str
    payload_bytes: float
    is_waited: bool
    ranks: int = 0
    """How many consecutive ranks take part in one; 0: all ranks of the run."""
    messages: float = 1.0
    """Of point_to_point: how many a rank sends, as the mean over the ranks; so is payload_bytes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The rank waits for all collectives under way."""


Event = Compute | CommEvent | Wait


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a rank computes a part of the step, or the network carries a collective."""

    name: str
    """A part of `Compute`, or a collective's kind."""
    start: float
    """Seconds since the step began, as `end`."""
    end: float
    is_network: bool


@dataclass(slots=True)
class StepTime:
    """Where the seconds of a step go."""

    seconds: float = 0.0
    computing: dict[str, float] = field(default_factory=dict)
    """Seconds by part, as if no collective is under way."""
    spans: list[Span] = field(default_factory=list)

    @property
    def exposed_seconds(self) -> float:
        """What communication adds: waiting, and slower computing beside it."""
        return self.seconds - sum(self.computing.values())


class Timeline:
    """Play events; collectives take turns on one network.

    slowdown: how much longer a GPU computes beside a collective. If a collective keeps a share of the computing core busy,
    computing loses that share, but at most half: the scheduler treats the two equally.
    """

    def __init__(self, slowdown: float) -> None:
        self._slowdown = slowdown
        self._under_way: list[tuple[str, Cost]] = []
        self._left = 0.0
        self._began = 0.0
        self.time = StepTime()

    def play(self, events: Iterable[tuple[Event, Cost]]) -> StepTime:
        """Play all events in order. Only the cost of a CommEvent counts."""
        for event, cost in events:
            match event:
                case Compute():
                    self._compute(event)
                case CommEvent():
                    self._begin(event.kind, cost)
                    if event.is_waited:
                        self._drain()
                case Wait():
                    self._drain()
        self._drain()
        return self.time

    def _begin(self, kind: str, cost: Cost) -> None:
        if cost.seconds > 0:
            if self._under_way:
                cost = replace(cost, seconds=cost.seconds - cost.spared_behind)
            else:
                self._left, self._began = cost.seconds, self.time.seconds
            self._under_way.append((kind, cost))

    def _compute(self, event: Compute) -> None:
        parts = self.time.computing
        parts[event.part] = parts.get(event.part, 0.0) + event.seconds
        left, start = event.seconds, self.time.seconds
        while left > SMALLEST_STEP and self._under_way:
            share = self._under_way[0][1].core_share
            computing = min(1 / (1 + self._slowdown), 1 - min(share, 0.5))
            sending = min(1.0, 0.5 / share) if share else 1.0
            seconds = min(left / computing, self._left / sending)
            self.time.seconds += seconds
            left -= seconds * computing
            self._advance(seconds * sending)
        self.time.seconds += max(left, 0.0)
        if event.seconds > 0:
            self.time.spans.append(Span(event.part, start, self.time.seconds, is_network=False))

    def _drain(self) -> None:
        while self._under_way:
            self.time.seconds += self._left
            self._advance(self._left)

    def _advance(self, seconds: float) -> None:
        self._left -= seconds
        if self._left <= SMALLEST_STEP:
            kind, _ = self._under_way.pop(0)
            now = self.time.seconds
            self.time.spans.append(Span(kind, self._began, now, is_network=True))
            self._left = self._under_way[0][1].seconds if self._under_way else 0.0
            self._began = now
