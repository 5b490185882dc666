"""Memory to work in."""

import numpy as np


class Scratch:
    """Room for the pixels of a sample at work, kept for the next: fresh pages cost more than what is done in them.

    For one thread: whatever is asked for lies where what was asked for before lay.
    """

    def __init__(self, size: int) -> None:
        """`size`: side of a sample, pixels."""
        self.squares = np.empty((2, size, size, 3), dtype=np.uint8)
        """A sample, and one to be blended into it."""
        self._colours = np.empty(size * size * 3, dtype=np.uint8)
        self._planes = np.empty((3, size * size), dtype=np.uint8)

    def colours(self, image: np.ndarray) -> np.ndarray:
        """Room for a copy of a part (rows, columns, 3) of a sample."""
        return self._colours[: image.size].reshape(image.shape)

    def planes(self, image: np.ndarray) -> list[np.ndarray]:
        """Room for its three channels (rows, columns)."""
        rows, columns = image.shape[:2]
        return [plane[: rows * columns].reshape(rows, columns) for plane in self._planes]
