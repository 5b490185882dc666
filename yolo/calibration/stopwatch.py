"""Time the parts of a step."""

import time
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Stopwatch:
    """Seconds of a step by part, summed over steps."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._last = self._now()

    def stop(self, part: str) -> None:
        """End a part: add the time since the last `start` or `stop`, after the GPU has finished."""
        now = self._now()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
