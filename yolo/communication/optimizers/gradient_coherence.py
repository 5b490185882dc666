"""How much shorter the mean of the ranks' gradients is than the gradients, without exchanging them.

Gradients of different images point in different directions: the mean over n ranks is shorter than they are, by up to
sqrt(n) if only noise differs. Clipping the ranks' own gradients to the bound of the mean shortens the step by that ratio.
No rank sees the mean, so each sends a random projection of its gradient, a few numbers; the sum of the projections is the
projection of the sum, and a projection keeps the length on average (Alon, Matias and Szegedy, "The Space Complexity of
Approximating the Frequency Moments", STOC 1996).
"""

from typing import Any

import torch

SKETCH = 16
"""Numbers of a projection: one of them misses a squared length by sqrt(2 / 16), 35%."""
STEPS = 50
"""Steps that count as recent: their mean misses the squared length by 4%, the length by 2%."""
FIXED_SEED = 1


class GradientCoherence:
    """The ratio of the norm of the ranks' mean gradient to the root mean square of their norms; the same on all ranks."""

    def __init__(self, ranks: int, size: int, columns: int, device: torch.device) -> None:
        """`size`: elements of a gradient, of which it is seen as a matrix with so many columns, a multiple of SKETCH."""
        self.ranks = ranks
        self.columns = columns
        self.square = torch.full((), 1 / ranks, device=device)
        """The squared ratio; until the first measurement as for noise alone."""
        self.measurements = 0
        self._generator = torch.Generator(device).manual_seed(FIXED_SEED)
        # Each step has new signs per row and per column, which are few. By themselves they would miss the length of a
        # gradient of low rank by far.
        self._fixed_signs = self._signs(size).to(torch.int8)

    @property
    def ratio(self) -> torch.Tensor:
        """Between 1 / sqrt(ranks) and 1; a scalar on the device."""
        return self.square.clamp(1 / self.ranks, 1.0).sqrt()

    def sketch(self, gradient: torch.Tensor, step: int, scratch: torch.Tensor) -> torch.Tensor:
        """A projection (SKETCH,) in fp32 of a gradient (size,), by signs that depend on the step only.

        `scratch` has the gradient's shape and type, and is overwritten.
        """
        torch.mul(gradient, self._fixed_signs, out=scratch)
        matrix = scratch.view(-1, self.columns)
        self._generator.manual_seed(step)
        rows, columns = (self._signs(size).to(matrix.dtype) for size in matrix.shape)
        return ((rows @ matrix) * columns).view(-1, SKETCH).sum(0).float()

    def _signs(self, size: int) -> torch.Tensor:
        device = self._generator.device
        return 2 * torch.randint(2, (size,), generator=self._generator, device=device) - 1

    def update(self, sketches: torch.Tensor, mean_square: torch.Tensor) -> None:
        """Average in the ranks' sketches (ranks, SKETCH) of a step; `mean_square` is the mean of the squared norms.

        A step without a gradient changes nothing.
        """
        of_mean = sketches.mean(0).square().sum()
        measured = torch.where(mean_square > 0, of_mean / mean_square, self.square)
        self.measurements += 1
        self.square.lerp_(measured, max(1 / self.measurements, 1 / STEPS))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; the same on all ranks."""
        return {"coherence": self.square, "measurements": self.measurements}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.square.copy_(state["coherence"])
        self.measurements = state["measurements"]
