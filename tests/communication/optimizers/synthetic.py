"""Tensors and gradients for comparing an optimizer with a paper: the same numbers wherever they are asked for."""

import numpy as np
from numpy.typing import NDArray

SHAPES = [(700,), (16,), (33, 40), (3,)]
"""A block and a half, a small tensor, three blocks but for some, and one of hardly anything."""
GROUPS = [(0, 1), (2, 3)]
RATES = [0.01, 0.002]
DECAYS = [0.0, 0.1]
"""Of each group."""


def start() -> list[NDArray[np.float64]]:
    """Weights to begin with, flat."""
    generator = np.random.default_rng(7)
    return [generator.standard_normal(int(np.prod(shape))) for shape in SHAPES]


def gradient(rank: int, step: int, weights: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Of a bowl whose middle each rank sees elsewhere, with noise, each tensor at a magnitude of its own."""
    generator = np.random.default_rng(1000 * step + rank)
    return [
        10.0**-number * (weight - rank + generator.standard_normal(weight.size))
        for number, weight in enumerate(weights)
    ]
