"""`metrics.jsonl`: one line a record, always written, readable while the run goes on."""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from yolo.tracking.metric_names import evaluation_figures, step_figures
from yolo.tracking.records import EvaluationResult, StepResult

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends to the log of a run; a resumed run goes on in the same file.

    What a full disk does not take waits for the next record.

    A record has `kind` (`step` or `evaluation`), `time` (UTC), `step`, `epoch` and the figures by name. A figure that is
    not finite is null, because JSON has no word for it.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = log.warning) -> None:
        """`warn` hears once when nothing can be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if path.exists() else b""
        self._file = path.open("ab", buffering=0)
        self._warn = warn
        self._is_warned = False
        self._waiting = b""
        if earlier and not earlier.endswith(b"\n"):
            self._waiting = b"\n"  # a killed run's half line must not swallow the next record

    def step(self, result: StepResult, beside: Mapping[str, float] | None = None) -> None:
        """Write a training record, with further figures `beside` its own."""
        figures = {**step_figures(result), **(beside or {})}
        self._write("step", result.step, result.epoch, figures)

    def evaluation(self, step: int, epoch: float, result: EvaluationResult) -> None:
        """Write an evaluation made after `step` optimizer steps and `epoch` epochs."""
        self._write("evaluation", step, epoch, evaluation_figures(result))

    def close(self) -> None:
        """Write what still waits, and close the file."""
        self._write_waiting()
        self._file.close()

    def _write(self, kind: str, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        record = {
            "kind": kind,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "step": step,
            "epoch": round(epoch, 4),
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        }
        self._waiting += json.dumps(record).encode() + b"\n"
        self._write_waiting()

    def _write_waiting(self) -> None:
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(self._waiting)
            if written < len(self._waiting):
                os.ftruncate(self._file.fileno(), start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting = b""
            self._is_warned = False
        except OSError as error:
            if not self._is_warned:
                self._warn(
                    f"{self._file.name}: {error.strerror}; training goes on, and the records wait"
                )
            self._is_warned = True
