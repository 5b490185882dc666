"""What the factors' benchmark measured: rows, whether an all-reduce took the link, and the file that holds them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.architecture import parameter_count
from yolo.bench.factors.all_reduce import AllReduceTiming
from yolo.bench.factors.steps import CaseTiming, Factor
from yolo.calibration.strategies import COMPUTE
from yolo.calibration.strategy_timing import CLASSES
from yolo.communication.metering.wire_bytes import sent_share
from yolo.emulation.link_check import wire_bytes

HOSTS = 2
SHARE = sent_share("all_reduce", HOSTS, is_gloo=False)
"""Bytes that a rank sends per byte of an all-reduce, by any algorithm that sends no more than it must."""
TOLERANCE = 0.05
"""Of the wire's bytes, for acknowledgements: 2.2% if there is one for every second frame."""
CONTROL_BYTES = 4096
"""Headers of messages and agreements of sender and receiver, allowed per call in addition."""


@dataclass(frozen=True, slots=True)
class ProtocolRow(AllReduceTiming):
    """All-reduces of one size by one protocol at one bandwidth."""

    protocol: str
    bandwidth_mbps: float

    @property
    def expected_bytes(self) -> int:
        """Bytes of the full frames that carry what a rank must send."""
        return wire_bytes(round(self.payload_bytes * SHARE))

    @property
    def is_valid(self) -> bool:
        """Whether the interface sent what an all-reduce must: with less, it went round the link, such as by shared memory."""
        most = self.expected_bytes * (1 + TOLERANCE) + CONTROL_BYTES
        return self.expected_bytes * 0.99 <= self.wire_bytes <= most

    @property
    def bus_mbps(self) -> float:
        """Bus bandwidth as nccl-tests define it: what each rank sent, by the time, in Mbit/s."""
        return self.payload_bytes * SHARE * 8e-6 / self.seconds


@dataclass(frozen=True, slots=True)
class AbsentProtocol:
    """A protocol that this machine cannot run."""

    protocol: str
    reason: str


@dataclass(frozen=True, slots=True)
class FactorResults:
    """All that one run measured."""

    machine: str
    link_mbps: float
    """Of the training steps."""
    protocols: tuple[ProtocolRow, ...] = ()
    absent: tuple[AbsentProtocol, ...] = ()
    cases: tuple[CaseTiming, ...] = ()

    def of(self, factor: Factor) -> list[CaseTiming]:
        """The cases of one factor that exchange."""
        named = [case for case in self.cases if case.factor == factor]
        return [case for case in named if case.strategy != COMPUTE.name]

    def computing(self, case: CaseTiming) -> CaseTiming | None:
        """The same case without any exchange, if it was measured: the fastest, as other work can only add."""
        wanted = COMPUTE.name, case.factor, case.variant, case.images, case.image_size
        alike = [
            each
            for each in self.cases
            if (each.strategy, each.factor, each.variant, each.images, each.image_size) == wanted
        ]
        return min(alike, key=lambda each: each.step_seconds, default=None)


def read_results(path: Path) -> FactorResults:
    """Read what a run wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return FactorResults(
        machine=found["machine"],
        link_mbps=found["link_mbps"],
        protocols=tuple(ProtocolRow(**row) for row in found["protocols"]),
        absent=tuple(AbsentProtocol(**row) for row in found["absent"]),
        cases=tuple(CaseTiming(**row) for row in found["cases"]),
    )


def formula_bytes(variant: str) -> int:
    """Bytes on the wire per step per rank that gradients of a network in fp32 must take, in full frames."""
    return wire_bytes(round(4 * parameter_count(variant, CLASSES) * SHARE))


def sizes_of(rows: Sequence[ProtocolRow]) -> list[int]:
    """The sizes that were measured, in bytes."""
    return sorted({row.payload_bytes for row in rows})
