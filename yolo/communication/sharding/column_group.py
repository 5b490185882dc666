"""The ranks that share an image, each with a stripe of its columns."""

from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.communication.coalesced import all_reduce_mean


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """This rank's place among the ranks that hold the same images, from the left stripe to the right one."""

    index: int = 0
    """Of this rank's stripe, from the left."""
    count: int = 1
    """Stripes of an image, one per rank; 1: images are not sharded."""
    group: Any = None
    """The process group of these ranks; None if there is one."""

    @classmethod
    def of(cls, rank: int, count: int, group: Any) -> "ColumnGroup":
        """The group of a rank: `count` consecutive ranks share an image."""
        return cls(rank % count, count, group)

    @property
    def left(self) -> int | None:
        """The global rank with the stripe to the left; None at the image's border."""
        return self._rank(self.index - 1)

    @property
    def right(self) -> int | None:
        """The global rank with the stripe to the right; None at the image's border."""
        return self._rank(self.index + 1)

    def stripe(self, images: torch.Tensor) -> torch.Tensor:
        """This rank's columns of images (B, C, H, W): (B, C, H, W / count)."""
        if self.count == 1:
            return images
        width = images.shape[-1] // self.count
        layout = memory_format_of(images)
        return images.narrow(3, self.index * width, width).contiguous(memory_format=layout)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the stripes, in place; collective."""
        if self.count > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def average_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its mean over the stripes; collective."""
        if self.count > 1:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            all_reduce_mean(gradients, self.group)

    def _rank(self, index: int) -> int | None:
        if not 0 <= index < self.count:
            return None
        return torch.distributed.get_rank() - self.index + index


def memory_format_of(tensor: torch.Tensor) -> torch.memory_format:
    """Channels last if a tensor (B, C, H, W) is stored so."""
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
