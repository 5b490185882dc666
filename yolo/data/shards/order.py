"""The order in which images are streamed from shards: which process reads what, and when each image is drawn.

It follows from the seed, the epoch, the number of processes and the sizes of the shards, so an epoch can be resumed at
any step without reading what comes before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARDS = 1
"""Separates the random numbers of the shards' order from others of the same seed."""


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Samples `first` to `stop` of a shard."""

    shard: int
    first: int
    stop: int


def slices_of_stream(
    samples: Sequence[int], stream: int, streams: int, seed: int, epoch: int
) -> list[ShardSlice]:
    """What one of several streams reads in an epoch; `samples`: number of samples in each shard.

    The shards are concatenated in the epoch's order, and each stream takes an equal length of that: full shards if
    their number is a multiple of `streams`, else also parts of one or two. Each sample is in exactly one stream.
    """
    order = np.random.default_rng((seed, epoch, SHARDS)).permutation(len(samples))
    start, stop = stream * len(samples), (stream + 1) * len(samples)  # a shard's length: `streams`
    slices = []
    for place in range(start // streams, -(-stop // streams)):
        shard = int(order[place])
        cuts = (max(start - place * streams, 0), min(stop - place * streams, streams))
        first, last = (cut * samples[shard] // streams for cut in cuts)
        if last > first:
            slices.append(ShardSlice(shard, first, last))
    return slices


class ShuffleBuffer:
    """The numbers 0, 1, 2, ... in the order in which a shuffle buffer of a fixed capacity gives them.

    It holds the numbers that may be drawn next and, once no more can be added, those drawn last.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count = count
        self.numbers = list(range(min(count, capacity)))
        self.added = len(self.numbers)
        self._undrawn = len(self.numbers)

    def slot(self, share: float) -> int:
        """The slot to draw, for a random number from 0 to 1."""
        return int(share * self._undrawn)

    def replace(self, slot: int) -> int | None:
        """Replace the drawn number by the next one; returns the removed number, or None if it stays in the buffer."""
        number = self.numbers[slot]
        if self.added < self.count:
            self.numbers[slot] = self.added
            self.added += 1
            return number
        self._undrawn -= 1
        self.numbers[slot] = self.numbers[self._undrawn]
        self.numbers[self._undrawn] = number
        return None
