"""When Adam's second moment may stand still: the variance-stability test of 1-bit Adam."""

from collections import deque

STABLE_RATIO = 0.96
"""Of the second moment's L1 norm now and some steps ago (Tang et al., 1-bit Adam, ICML 2021, section 7.1)."""
SHARE_OF_RUN = 0.05
"""The paper looks back 1 / (1 - beta2) steps, 1000 at 0.999; a shorter run must be content with this share of it."""
LATEST_SHARE = 0.25
"""Of the run, after which it is frozen in any case: what comes later saves too little."""


class VarianceStabilityTest:
    """Asked after each step whether the second moment has become stable."""

    def __init__(self, beta2: float, warmup_steps: int, steps: int) -> None:
        look_back = round(min(1 / (1 - beta2), max(10, SHARE_OF_RUN * steps)))
        self.earliest = warmup_steps
        """Before the learning rate has risen, gradients are of a network that hardly moved."""
        self.latest = max(warmup_steps + 1, round(LATEST_SHARE * steps))
        self._norms: deque[float] = deque(maxlen=look_back + 1)

    def is_stable(self, step: int, norm: float) -> bool:
        """`norm` is the bias-corrected second moment's L1 norm after `step` steps."""
        self._norms.append(norm)
        if step >= self.latest:
            return True
        is_filled = len(self._norms) == self._norms.maxlen
        ratio = min(norm, self._norms[0]) / max(norm, self._norms[0], 1e-300)
        return step >= self.earliest and is_filled and ratio >= STABLE_RATIO

    def state(self) -> list[float]:
        """The norms seen, for a checkpoint."""
        return list(self._norms)

    def load(self, norms: list[float]) -> None:
        """Take up what `state` returned."""
        self._norms.clear()
        self._norms.extend(norms)
