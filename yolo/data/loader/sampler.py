"""Which rank draws which image when; it depends only on the seed and the position."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np


class SampleKey(NamedTuple):
    """A sample's epoch and image index, so that workers keep no state between epochs."""

    epoch: int
    image: int
    """Index into the data set's records."""


class StepSampler:
    """Splits each optimizer step's global batch into one block per rank, and that into micro batches.

    The global batch of a step is the same for every number of ranks and accumulation steps. The last step of an epoch
    is filled from the epoch's beginning. Iterating yields this rank's micro batches from `start_at` on.
    """

    def __init__(
        self,
        length: int,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        seed: int,
    ) -> None:
        if global_batch % (micro_batch * world_size):
            raise ValueError(
                f"global_batch {global_batch} is no multiple of micro_batch {micro_batch} x {world_size} ranks"
            )
        self.length = length
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.rank = rank
        self.share = global_batch // world_size
        self.seed = seed
        self._start = 0, 0

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.length // self.global_batch)

    @property
    def accumulation(self) -> int:
        """Micro batches per step per rank."""
        return self.share // self.micro_batch

    def start_at(self, epoch: int, first_step: int) -> None:
        """Set where the next iteration starts."""
        self._start = epoch, first_step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.micro_batches(*self._start)

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's images in the order of all ranks, filled up to full steps."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
        return np.resize(order, len(self) * self.global_batch)

    def micro_batches(self, epoch: int, first_step: int = 0) -> Iterator[list[SampleKey]]:
        """This rank's micro batches of an epoch in order, from `first_step` on."""
        steps = self.order(epoch).reshape(len(self), self.global_batch)
        for step in steps[first_step:]:
            mine = step[self.rank * self.share : (self.rank + 1) * self.share]
            for micro in mine.reshape(self.accumulation, self.micro_batch):
                yield [SampleKey(epoch, int(index)) for index in micro]


def evaluation_indices(length: int, rank: int, world_size: int) -> range:
    """The images that a rank evaluates: each image on exactly one rank."""
    return range(rank, length, world_size)


def batches_of_one_shape(
    indices: Iterable[int], shape: Callable[[int], tuple[int, int]], batch: int
) -> list[list[int]]:
    """Batches of up to `batch` images of one shape, sorted by shape."""
    ordered = sorted(indices, key=shape)  # stable: images of one shape keep their order
    groups = (list(group) for _, group in groupby(ordered, key=shape))
    return [
        group[start : start + batch] for group in groups for start in range(0, len(group), batch)
    ]
