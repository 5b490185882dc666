"""What a training's steps put on the wire, by its own meter and by the hosts' interfaces, over the same steps."""

import json
from dataclasses import dataclass

from yolo.emulation.cluster import EmulatedCluster
from yolo.training.checkpointing.run_directory import RunDirectory

WIRE_BYTES = "communication/wire_bytes_per_step"


@dataclass(frozen=True, slots=True)
class Reading:
    """The interfaces when a line of the run's log had just been written."""

    step: int
    is_after_steps: bool
    """Whether only training steps lie between this and the reading before it."""
    metered_bytes_per_step: float
    """Sent by a rank, mean over the ranks and over the steps since the line before."""
    sent_bytes: float
    """By a host since it exists, mean over the hosts."""


class StepTraffic:
    """Reads the interfaces whenever the run logs some steps; evaluations between them are left out."""

    def __init__(self, cluster: EmulatedCluster, run: RunDirectory) -> None:
        self._cluster = cluster
        self._run = run
        self._lines = 0
        self._readings: list[Reading] = []

    def look(self) -> None:
        """Read the interfaces if there is a new line; to be called often while the training runs."""
        if not self._run.metrics.is_file():
            return
        *lines, _ = self._run.metrics.read_text().split("\n")  # the last one is not whole
        new, self._lines = lines[self._lines :], len(lines)
        if not new:
            return
        record = json.loads(new[-1])
        sent = [host.counters().sent_bytes for host in self._cluster.hosts]
        is_after_steps = len(new) == 1 and record["kind"] == "step"
        self._readings.append(
            Reading(
                record["step"], is_after_steps, record.get(WIRE_BYTES, 0.0), sum(sent) / len(sent)
            )
        )

    def rows(self) -> list[tuple[str, str]]:
        """The meter's bytes beside the interfaces', for a table; none where too few lines were logged to compare."""
        steps, metered, sent = 0, 0.0, 0.0
        for before, after in zip(self._readings, self._readings[1:], strict=False):
            if after.is_after_steps:
                between = after.step - before.step
                steps += between
                metered += after.metered_bytes_per_step * between
                sent += after.sent_bytes - before.sent_bytes
        if not metered:
            return []
        return [
            ("meter, sent", f"{metered / steps / 1e6:.3f} MB a step and rank"),
            (
                "eth0, sent",
                f"{sent / steps / 1e6:.3f} MB a step and rank, over {steps} steps: {sent / metered:.3f} times the meter's",
            ),
        ]
