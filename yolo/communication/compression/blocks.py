"""Many tensors as one vector of equal blocks, none of which two tensors share."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch

BLOCK = 512
"""Elements that share a scale of 4 bytes, 1/16 on top of their signs. With 256 a YOLOv5n sends 4% more (scales), with
1024 as much (padding after small tensors), and a larger one fits its elements worse (tests/communication/compression/test_sign_packing.py)."""


class BlockLayout:
    """Where each of some tensors lies in a padded vector, which `shards` ranks can divide among them by whole blocks.

    Each tensor begins a block of its own, because a scale that a BatchNorm's weights shared with a convolution's would
    fit neither.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], shards: int, block: int = BLOCK) -> None:
        self.block = block
        self.shapes = [tensor.shape for tensor in tensors]
        self.sizes = [tensor.numel() for tensor in tensors]
        blocks = [-(-size // block) for size in self.sizes]
        self.starts = [0]
        for count in blocks:
            self.starts.append(self.starts[-1] + count * block)
        total = -(-sum(blocks) // shards) * shards
        self.length = total * block
        """Elements of the vector, padding included: a multiple of shards x block."""
        self.device = tensors[0].device

    @cached_property
    def is_real(self) -> torch.Tensor:
        """(length,) False where padding is."""
        is_real = torch.zeros(self.length, dtype=torch.bool)
        for start, size in zip(self.starts, self.sizes, strict=False):
            is_real[start : start + size] = True
        return is_real.to(self.device)

    @cached_property
    def counts(self) -> torch.Tensor:
        """(length / block,) elements that are no padding, at least 1."""
        return self.is_real.view(-1, self.block).sum(1).clamp_(min=1)

    def vector(self, dtype: torch.dtype) -> torch.Tensor:
        """Zeros (length,)."""
        return torch.zeros(self.length, dtype=dtype, device=self.device)

    def views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The part of a vector that each tensor has, in the tensor's own shape; they share the vector's memory."""
        return [
            vector[start : start + size].view(shape)
            for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=False)
        ]

    def spans(self, lengths: Sequence[int]) -> list[slice]:
        """The part of the vector that each of some runs of tensors has, their padding included.

        The last one holds the vector's own padding too.
        """
        ends = [0]
        for length in lengths:
            ends.append(ends[-1] + length)
        edges = [self.starts[end] for end in ends[:-1]] + [self.length]
        return [slice(start, end) for start, end in pairwise(edges)]


def copy_as_far_as_both_go(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a vector into another one of the same tensors: with another number of shards only the padding differs."""
    length = min(target.numel(), source.numel())
    target.view(-1)[:length].copy_(source.reshape(-1)[:length])
