"""Time calls, and the parts of a step."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Seconds of a step by part, summed over steps; also a `StepObserver`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._part: str | None = None
        self._last = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._part, self._last = None, self._now()

    def begin(self, part: str, step: int) -> None:
        """End the part before this one; the step's beginning belongs to its first part."""
        if self._part is not None:
            self.stop(self._part)
        self._part = part

    def stop(self, part: str) -> None:
        """End a part: add the time since the last `start` or `stop`, after the GPU has finished."""
        now = self._now()
        self.seconds[part] += now - self._last
        self._last = now

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


class Unwatched(Stopwatch):
    """Lets a GPU run ahead: parts are not timed."""

    def stop(self, part: str) -> None:
        """Do not wait for the GPU."""


def seconds_per_call(call: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Mean seconds of calls in a row, until the GPU has finished them."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return (time.perf_counter() - started) / calls


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
