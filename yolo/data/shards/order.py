"""In which order images are streamed from shards: which process reads what, and when each image is drawn.

It follows from the seed, the epoch, the number of processes and the sizes of the shards: nothing need be read to know it,
so that an epoch can be entered anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARDS = 1
"""Keeps the random numbers of the shards' order apart from others of the seed."""


@dataclass(frozen=True, slots=True)
class ShardSlice:
    """Samples `first` to `stop` of a shard."""

    shard: int
    first: int
    stop: int


def stretches_of(
    samples: Sequence[int], stream: int, streams: int, seed: int, epoch: int
) -> list[ShardSlice]:
    """What one of several streams reads in an epoch, given the samples of each shard.

    The shards lie in a line in the epoch's order, and each stream takes an equal length of it: whole shards where
    their number is a multiple of the streams', else parts of one or two besides. Each sample is in exactly one stream.
    """
    order = np.random.default_rng((seed, epoch, SHARDS)).permutation(len(samples))
    start, stop = stream * len(samples), (stream + 1) * len(samples)  # a shard's length: `streams`
    found = []
    for place in range(start // streams, -(-stop // streams)):
        shard = int(order[place])
        cuts = (max(start - place * streams, 0), min(stop - place * streams, streams))
        first, last = (cut * samples[shard] // streams for cut in cuts)
        if last > first:
            found.append(ShardSlice(shard, first, last))
    return found


class ShuffleBuffer:
    """The numbers 0, 1, 2, ... in a random order in which none comes up much before its turn: as a buffer gives them.

    The buffer holds the numbers that may be drawn next and, once there are no more to take in, those drawn last.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count = count
        self.numbers = list(range(min(count, capacity)))
        self.taken_in = len(self.numbers)
        self._undrawn = len(self.numbers)

    def slot(self, share: float) -> int:
        """Which place is drawn, for a random number from 0 to 1."""
        return int(share * self._undrawn)

    def replace(self, slot: int) -> int | None:
        """The drawn number makes room for the next; returns the one that is gone, or None where it stays behind."""
        number = self.numbers[slot]
        if self.taken_in < self.count:
            self.numbers[slot] = self.taken_in
            self.taken_in += 1
            return number
        self._undrawn -= 1
        self.numbers[slot] = self.numbers[self._undrawn]
        self.numbers[self._undrawn] = number
        return None
