"""`metrics.jsonl`: one line per record, always written, readable during the run."""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from yolo.evaluation.metrics import Metrics
from yolo.tracking.metric_names import evaluation_figures, step_figures
from yolo.tracking.records import StepMetrics

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends to the log of a run; a resumed run continues the same file.

    A record has `kind` (`step` or `evaluation`), `time` (UTC), `step`, `epoch` and the figures by name. A non-finite
    figure is null, since JSON has no NaN. Records that do not fit on a full disk are written with the next record.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = log.warning) -> None:
        """`warn` is called once when writing fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if path.exists() else b""
        self._file = path.open("ab", buffering=0)
        self._warn = warn
        self._is_warned = False
        # Ends the half line of a killed run, so that the next record starts a new line.
        self._pending = b"\n" if earlier and not earlier.endswith(b"\n") else b""

    def step(self, result: StepMetrics, beside: Mapping[str, float] | None = None) -> None:
        """Write a training record, with further figures `beside` its own."""
        figures = {**step_figures(result), **(beside or {})}
        self._write("step", result.step, result.epoch, figures)

    def evaluation(self, step: int, epoch: float, result: Metrics) -> None:
        """Write an evaluation made after `step` optimizer steps and `epoch` epochs."""
        self._write("evaluation", step, epoch, evaluation_figures(result))

    def close(self) -> None:
        """Write pending records, and close the file."""
        self.flush()
        self._file.close()

    def _write(self, kind: str, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        record = {
            "kind": kind,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "step": step,
            "epoch": round(epoch, 4),
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        }
        self._pending += json.dumps(record).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write the records that are not on the disk yet; a full disk is logged once."""
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(self._pending)
            if written < len(self._pending):
                os.ftruncate(self._file.fileno(), start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._pending = b""
            self._is_warned = False
        except OSError as error:
            if not self._is_warned:
                self._warn(
                    f"{self._file.name}: {error.strerror}; training continues, and the records wait"
                )
            self._is_warned = True
