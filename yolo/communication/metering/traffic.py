"""Counts of a rank's collectives: calls, bytes and seconds."""

from dataclasses import astuple, dataclass, field, fields


@dataclass(slots=True)
class KindTraffic:
    """Traffic of one rank in collectives of one kind, in a span of time or as a mean."""

    calls: float = 0
    payload_bytes: float = 0
    """The bytes of the tensors handed over."""
    wire_bytes: float = 0.0
    """Sent; as many are received. By the formulae of the algorithms, on gloo with the headers of TCP and below."""
    seconds: float = 0.0
    """From the collectives' starts to their ends; those of several at once add up."""
    exposed_seconds: float = 0.0
    """How long the rank waited for results; on a GPU, the stream that needed them.

    Waiting for a future counts as waiting for all current collectives. DeepSpeed starts those of `overlap_comm` from a
    separate stream: there, on a GPU, this includes what the computation hides.
    """

    def add(self, other: "KindTraffic") -> None:
        """Add another span to this one."""
        for each in fields(KindTraffic):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class Traffic(KindTraffic):
    """Traffic of one rank in a span of time: the total, and by kind of collective."""

    by_kind: dict[str, KindTraffic] = field(default_factory=dict)

    def count(self, kind: str, part: KindTraffic) -> None:
        """Add to one kind and to the total."""
        KindTraffic.add(self, part)
        self.by_kind.setdefault(kind, KindTraffic()).add(part)

    def by_kind_per(self, steps: int) -> dict[str, KindTraffic]:
        """The mean per step of each kind."""
        return {
            kind: KindTraffic(*(value / steps for value in astuple(traffic)))
            for kind, traffic in self.by_kind.items()
        }

    def add(self, other: KindTraffic) -> None:
        """Add another span to this one."""
        KindTraffic.add(self, other)
        if isinstance(other, Traffic):
            for kind, part in other.by_kind.items():
                self.by_kind.setdefault(kind, KindTraffic()).add(part)
