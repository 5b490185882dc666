"""Training on images of changing size."""

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from yolo.recipe.schema.recipe import Recipe


class ImageSizes:
    """The side of each optimizer step's images: from the seed and the step alone, so the same on all ranks."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        """`stride`: the network's largest, pixels; every size is a multiple of it."""
        self.size = recipe.model.image_size
        self.reach = recipe.train.multi_scale
        self.seed = recipe.train.seed
        self.stride = stride

    def at(self, step: int) -> int:
        """Pixels, for optimizer step `step`, counted from 0."""
        if self.reach == 0:
            return self.size
        random = np.random.default_rng((self.seed, MULTI_SCALE, step))
        drawn = self.size * random.uniform(1 - self.reach, 1 + self.reach)
        return max(self.stride, round(drawn / self.stride) * self.stride)


MULTI_SCALE = 0x5CA1E
"""Keeps these draws apart from the data's, which begin with seed and epoch."""


def scaled(images: Tensor, size: int) -> Tensor:
    """Square images (B, 3, S, S) at another size, on their device."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
