"""Where a step's time goes."""

import time
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Stopwatch:
    """Seconds of a step by part, summed up over steps."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._last = self._now()

    def stop(self, part: str) -> None:
        """A part is over."""
        now = self._now()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
