"""Many tensors as one vector of equal blocks, none of which two tensors share."""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import torch

BLOCK = 512
"""Elements that share a scale of 4 bytes, 1/16 on top of their signs. With 256 a YOLOv5n sends 4% more (scales), with
1024 as much (padding after small tensors), and a larger block fits its elements worse
(tests/communication/compression/test_compressed_allreduce.py)."""


class BlockLayout:
    """Positions of tensors in a padded vector that `shards` ranks can divide into equal numbers of blocks.

    Each tensor starts a new block, because one scale would fit neither a BatchNorm's weights nor a convolution's.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], shards: int, block: int = BLOCK) -> None:
        self.block = block
        self.shapes = [tensor.shape for tensor in tensors]
        self.sizes = [tensor.numel() for tensor in tensors]
        padded_sizes = [-(-size // block) * block for size in self.sizes]
        self.starts = list(accumulate(padded_sizes, initial=0))
        self.length = -(-self.starts[-1] // (shards * block)) * shards * block
        """Elements of the vector with padding: a multiple of shards x block."""
        self.device = tensors[0].device

    @cached_property
    def is_real(self) -> torch.Tensor:
        """(length,) False for padding."""
        is_real = torch.zeros(self.length, dtype=torch.bool)
        for start, size in zip(self.starts, self.sizes, strict=False):
            is_real[start : start + size] = True
        return is_real.to(self.device)

    @cached_property
    def counts(self) -> torch.Tensor:
        """(length / block,) elements of each block without padding, at least 1."""
        return self.is_real.view(-1, self.block).sum(1).clamp_(min=1)

    def vector(self, dtype: torch.dtype) -> torch.Tensor:
        """Zeros (length,)."""
        return torch.zeros(self.length, dtype=dtype, device=self.device)

    def views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Each tensor's part of a vector, in the tensor's shape; they share the vector's memory."""
        return [
            vector[start : start + size].view(shape)
            for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=False)
        ]

    def spans(self, lengths: Sequence[int]) -> list[slice]:
        """The part of the vector of each run of `lengths` consecutive tensors, with their padding.

        The last one includes the vector's own padding.
        """
        firsts = list(accumulate(lengths, initial=0))[:-1]
        edges = [self.starts[first] for first in firsts] + [self.length]
        return [slice(start, end) for start, end in pairwise(edges)]


def copy_overlap(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a vector of the same tensors; with another number of shards, only the padding at the end differs."""
    length = min(target.numel(), source.numel())
    target.view(-1)[:length].copy_(source.reshape(-1)[:length])
